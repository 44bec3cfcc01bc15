use std::time::Duration;

use super::*;
use crate::figures::made_up::MadeUp;
use crate::figures::tests::four_records;
use crate::figures::{Figures, RunInfo};
use crate::record::{Chunk, Record};

fn info() -> RunInfo {
    RunInfo {
        target: "http://127.0.0.1:8000".to_owned(),
        model: "demo".to_owned(),
        workload: "fixed 10/4 tokens".to_owned(),
        arrival: "constant, 1 request/s".to_owned(),
        started: 951_782_400,
        duration: Duration::from_millis(3010),
        seed: 7,
        version: "0.1.0".to_owned(),
        cores: 2,
        invalid: None,
        notes: vec!["first\u{7}note".to_owned()],
    }
}

fn made_up(requests: u64) -> Vec<Record> {
    MadeUp {
        seed: 3,
        requests,
        rate: 20.0,
        slowness: 1.0,
    }
    .records()
}

fn figures(records: &[Record]) -> Figures {
    Figures::of(records, &"ttft=150ms,e2e=1s".parse().unwrap())
}

fn page(info: &RunInfo, records: &[Record], sweep: &[SweepPoint]) -> String {
    html(&Report {
        info,
        figures: &figures(records),
        records,
        sweep,
        policies: &[],
    })
}

#[test]
fn the_table_is_aligned_and_has_units() {
    let expected = "\
target    http://127.0.0.1:8000, model demo
workload  fixed 10/4 tokens
arrival   constant, 1 request/s
run       2000-02-29 00:00:00 UTC, 3.0 s, seed 7, kvasir 0.1.0, 2 cores
requests  3 counted: 1 answered, 2 failed (66.7%); 1 of the warm-up left out
endings   complete 1, cut_stream 1, status_503 1
rates     0.50 requests/s of 1.00 offered, 5.0 input tokens/s, 3.0 output tokens/s
cached    5 of 10 prompt tokens (50.0%)
goodput   0.50 requests/s, 33.3% meet ttft=150ms,e2e=1s; missed: incomplete 2
chunks    1.20 tokens each; those of a chunk share its gap evenly
note      first note

latency (ms)            count    mean     p50     p90     p95     p99   p99.9     max
time to first token         2  200.00  100.00  300.00  300.00  300.00  300.00  300.00
inter-token latency         4   22.50   20.01   30.00   30.00   30.00   30.00   30.00
gap between chunks          3   30.00   30.01   40.00   40.00   40.00   40.00   40.00
time per output token       1   20.00   20.00   20.00   20.00   20.00   20.00   20.00
end to end                  1  161.00  161.00  161.00  161.00  161.00  161.00  161.00
queueing of the client      3    2.00    1.00    5.00    5.00    5.00    5.00    5.00
";
    let shown = table(&info(), &figures(&four_records()));
    let (summary, rest) = shown.split_at(expected.len().min(shown.len()));
    assert_eq!(summary, expected);
    assert!(rest.contains("\nby tenant  requests  failed"), "{rest}");
    assert!(
        rest.contains("\nby decode worker  requests  failed"),
        "{rest}"
    );
}

#[test]
fn an_invalid_run_says_so_first() {
    let info = RunInfo {
        invalid: Some("the generator fell 80 ms behind".to_owned()),
        ..info()
    };
    let shown = table(&info, &figures(&four_records()));
    let first = shown.lines().next().unwrap();
    assert_eq!(
        first,
        "INVALID RUN, do not use these figures: the generator fell 80 ms behind"
    );
    assert!(page(&info, &four_records(), &[]).contains("<p class=\"invalid\">"));
    assert!(!page(&self::info(), &four_records(), &[]).contains("<p class=\"invalid\">"));
}

#[test]
fn nothing_measured_shows_dashes() {
    let shown = table(&info(), &figures(&[]));
    assert!(shown.contains("input tokens unknown"), "{shown}");
    let row = shown.lines().find(|it| it.starts_with("end to end"));
    assert_eq!(
        row.unwrap()
            .split_whitespace()
            .filter(|it| *it == "-")
            .count(),
        7
    );
    let page = page(&info(), &[], &[]);
    check_page(&page);
    assert!(!shown.contains("NaN") && !page.contains("NaN"));
    assert!(page.contains("no latencies to plot"));
    assert!(!self::page(&info(), &four_records(), &[]).contains("no latencies to plot"));
}

#[test]
fn a_sweep_has_a_row_for_each_rate() {
    let point = |rate: f64| SweepPoint {
        rate,
        verdict: Verdict::Holds,
        figures: figures(&four_records()),
    };
    let shown = sweep_table(&[point(1.0), point(20.5)]);
    let rows: Vec<Vec<_>> = shown.lines().map(|it| it.split("  ").collect()).collect();
    assert_eq!(rows.len(), 3);
    assert!(shown.lines().nth(1).unwrap().starts_with("1.00 "));
    assert!(shown.lines().nth(2).unwrap().starts_with("20.50 "));
    assert!(shown.contains("33.3%"), "{shown}");
}

#[test]
fn the_csv_of_a_sweep_has_every_quantile_and_nothing_where_nothing_was_measured() {
    let point = |rate: f64, verdict, records: &[Record]| SweepPoint {
        rate,
        verdict,
        figures: figures(records),
    };
    let points = [
        point(1.5, Verdict::Holds, &four_records()),
        point(3.0, Verdict::GeneratorLate, &[]),
    ];
    let mut written = Vec::new();
    sweep_csv(&points, &mut written).unwrap();
    let text = String::from_utf8(written).unwrap();
    let rows: Vec<Vec<_>> = text.lines().map(|it| it.split(',').collect()).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|it| it.len() == 8 + 6 * 7), "{text}");
    let column = |name: &str| rows[0].iter().position(|it| *it == name).unwrap();
    assert_eq!(rows[1][..5], ["1.5", "holds", "3", "1", "2"]);
    assert_eq!(rows[1][column("ttft_p99.9_ms")], "300");
    assert_eq!(rows[2][..3], ["3", "generator_late", "0"]);
    assert_eq!(rows[2][column("e2e_max_ms")], "");
}

#[test]
fn json_has_stable_keys() {
    let document = Document {
        info: info(),
        figures: figures(&four_records()),
        records: Some(four_records()),
        sweep: Vec::new(),
        policies: Vec::new(),
    };
    let json: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
    let table = [
        ("/schema", "1"),
        ("/info/seed", "7"),
        ("/figures/requests/outcomes/status_503", "1"),
        ("/figures/latency_ms/ttft/p99.9", "300.0"),
        ("/figures/latency_ms/itl/mean", "22.5"),
        ("/figures/per_second/output_tokens", "2.985"),
        ("/figures/goodput/good", "1"),
        ("/figures/decode_workers/0/name", "\"w0\""),
        ("/figures/series/interval_s", "0.25"),
        (
            "/records/2",
            r#"{"number":2,"scheduled_us":2000000,"sent_us":5000,"ended_us":331000,"chunks_us":[300000,30000],"outcome":"cut_stream","decode_worker":"w1"}"#,
        ),
        ("/records/1/chunk_tokens", "[1,1,2]"),
    ];
    for (path, expected) in table {
        let found = json.pointer(path).unwrap_or(&serde_json::Value::Null);
        assert_eq!(found.to_string(), expected, "{path}");
    }
}

#[test]
fn json_is_read_as_it_was_written() {
    let records = made_up(150);
    let point = SweepPoint {
        rate: 12.5,
        verdict: Verdict::GeneratorLate,
        figures: figures(&records[..20]),
    };
    let document = Document {
        info: info(),
        figures: figures(&records),
        records: Some(records),
        sweep: vec![point],
        policies: Vec::new(),
    };
    let read = Document::from_json(&document.to_json()).unwrap();
    assert_eq!(read, document);
    assert_eq!(figures(read.records.as_ref().unwrap()), read.figures);
    let bare = Document {
        records: None,
        ..document
    };
    assert_eq!(Document::from_json(&bare.to_json()).unwrap(), bare);
}

#[test]
fn times_between_microseconds_keep_their_order() {
    let nanos = Duration::from_nanos;
    let mut record = four_records().remove(1);
    record.scheduled = nanos(999_999_500);
    record.chunks = [1_000_000_100, 1_000_000_900, 1_000_001_000]
        .map(|at| Chunk {
            at: nanos(at),
            tokens: 1,
        })
        .into();
    let document = Document {
        info: info(),
        figures: Figures::default(),
        records: Some(vec![record]),
        sweep: Vec::new(),
        policies: Vec::new(),
    };
    let read = Document::from_json(&document.to_json()).unwrap();
    let read = &read.records.unwrap()[0];
    let times: Vec<_> = read.chunks.iter().map(|it| it.at.as_micros()).collect();
    assert_eq!(
        (read.scheduled.as_micros(), times),
        (999_999, vec![1_000_000, 1_000_000, 1_000_001])
    );
}

#[test]
fn wrong_files_are_refused_with_what_to_do() {
    let document = Document {
        info: info(),
        figures: Figures::default(),
        records: Some(four_records()),
        sweep: Vec::new(),
        policies: Vec::new(),
    };
    let json = document.to_json();
    let table = [
        ("".to_owned(), "is no JSON"),
        ("{".to_owned(), "is no JSON"),
        ("{}".to_owned(), "has no \"schema\""),
        (
            "{\"schema\":2}".to_owned(),
            "has schema 2, this kvasir reads 1",
        ),
        (
            "{\"schema\":1}".to_owned(),
            "is not as schema 1 wants it: missing field",
        ),
        (
            json.replace("cut_stream\",\"de", "cut\",\"de"),
            "record 2: no outcome \"cut\"",
        ),
        (
            json.replace("[1,1,2]", "[1,1]"),
            "record 1: 3 chunks_us, but 2 chunk_tokens",
        ),
    ];
    for (text, expected) in table {
        let error = Document::from_json(&text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn curves_have_only_rates_that_say_something_of_the_server() {
    let point = |rate: f64, verdict| SweepPoint {
        rate,
        verdict,
        figures: figures(&four_records()),
    };
    let sound = [point(5.0, Verdict::Holds), point(10.0, Verdict::Misses)];
    let with_late = [sound.as_slice(), &[point(7.0, Verdict::GeneratorLate)]].concat();
    let dots = |sweep: &[SweepPoint]| {
        let page = page(&info(), &four_records(), sweep);
        let at = page.matches("requests/s offered</title>").count();
        (at, page.contains("<td>generator late</td>"))
    };
    let (few, _) = dots(&sound);
    assert!(few > 0);
    assert_eq!(dots(&with_late), (few, true));
}

#[test]
fn csv_has_a_row_for_each_request() {
    let mut records = four_records();
    records[3].tenant = Some("a \"b\", c".into());
    let mut written = Vec::new();
    csv(&records, &mut written).unwrap();
    let expected = "\
number,warm_up,outcome,tenant,priority,conversation,turn,prefill_worker,decode_worker,\
scheduled_ms,sent_ms,ended_ms,queueing_ms,ttft_ms,tpot_ms,gap_max_ms,e2e_ms,chunks,\
output_tokens,expected_output,prompt_tokens,completion_tokens,cached_tokens,chunk_times_ms
0,true,complete,,,,,,,0.000,0.000,50.000,0.000,50.000,,,50.000,1,1,,,,,50.000
1,false,complete,acme,,,,,w0,1000.000,1001.000,1161.000,1.000,100.000,20.000,40.000,161.000,3,4,,10,4,5,1100.000 1120.000 1160.000
2,false,cut_stream,,,,,,w1,2000.000,2005.000,2331.000,5.000,300.000,,30.000,,2,2,,,,,2300.000 2330.000
3,false,status_503,\"a \"\"b\"\", c\",,,,,,3000.000,3000.000,3010.000,0.000,,,,,0,0,,,,,
";
    assert_eq!(String::from_utf8(written).unwrap(), expected);
}

#[test]
fn the_page_is_well_formed_and_asks_for_nothing() {
    let records = made_up(150);
    let point = |rate: f64| SweepPoint {
        rate,
        verdict: Verdict::Holds,
        figures: figures(&records),
    };
    let page = page(&info(), &records, &[point(5.0), point(10.0)]);
    check_page(&page);
    let sections = [
        "Rate against latency",
        "Over time",
        "Share of values up to a latency",
        "Not complete, of",
        "Load of decode workers",
        "Load of prefill workers",
        "40 requests around the slowest first token",
        "By tenant",
    ];
    for section in sections {
        assert!(page.contains(section), "{section}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn names_from_outside_stay_text() {
    let hostile = "</title><script src=\"http://x\">alert(1)</script>";
    let mut records = made_up(100);
    for record in &mut records {
        record.tenant = Some(hostile.into());
        record.decode_worker = Some(hostile.into());
    }
    let info = RunInfo {
        target: hostile.to_owned(),
        notes: vec![hostile.to_owned()],
        invalid: Some(hostile.to_owned()),
        ..info()
    };
    check_page(&page(&info, &records, &[]));
}

#[test]
fn many_workers_are_drawn_as_a_profile() {
    let mut records = made_up(150);
    for record in &mut records {
        record.decode_worker = Some(format!("w{}", record.number).into());
    }
    let page = page(&info(), &records, &[]);
    assert!(page.contains("workers, most loaded first"));
    check_page(&page);
}

#[test]
fn numbers_are_grouped_and_times_are_dates() {
    let counts = [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1_234_567, "1,234,567"),
    ];
    for (value, shown) in counts {
        assert_eq!(count(value), shown);
    }
    let decimals = [
        (0.0, 2, "0.00"),
        (1234.567, 2, "1,234.57"),
        (-0.001, 2, "0.00"),
        (-1.5, 1, "-1.5"),
        (999.96, 1, "1,000.0"),
        (f64::INFINITY, 3, "inf"),
    ];
    for (value, digits, shown) in decimals {
        assert_eq!(decimal(value, digits), shown);
    }
    let shares = [
        (0.0, "0.0%"),
        (0.001, "0.10%"),
        (0.5, "50.0%"),
        (0.9995, "99.95%"),
        (1.0, "100.0%"),
    ];
    for (share, shown) in shares {
        assert_eq!(percent(share), shown);
    }
    let times = [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_399, "2000-02-28 23:59:59 UTC"),
        (1_709_208_000, "2024-02-29 12:00:00 UTC"),
        (4_102_444_800, "2100-01-01 00:00:00 UTC"),
    ];
    for (seconds, shown) in times {
        assert_eq!(utc(seconds), shown);
    }
}

/// Elements are closed in the order they were opened, and nothing that a
/// browser would load is named.
#[track_caller]
fn check_page(page: &str) {
    for loads in [
        "src=", "href=", "url(", "@import", "<script", "<link", "<iframe", "<img",
    ] {
        let outside_text = page.contains(loads) && !page.contains("&lt;script");
        assert!(!outside_text, "{loads}");
    }
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(
            !text.contains('>') || open.last() == Some(&"style"),
            "{text}"
        );
        assert!(tag.matches('"').count() % 2 == 0, "{tag}");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') && !tag.starts_with('!') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
