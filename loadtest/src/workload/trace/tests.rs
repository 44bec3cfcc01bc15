use super::*;
use crate::planned::{PlannedRequest, Prompt};
use crate::workload::build;
use crate::workload::tests::{TempFile, all, config, refused};

const MOONCAKE: &str = "\
{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 64, \"hash_ids\": [0, 1, 2]}
{\"timestamp\": 0, \"input_length\": 1200, \"output_length\": 10, \"hash_ids\": [0, 1, 3]}
{\"timestamp\": 0, \"input_length\": 500, \"output_length\": 320, \"hash_ids\": [0]}

{\"timestamp\": 3000, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [7, 8]}
";
const AZURE: &str = "\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.5000000,374,44\r
2023-11-16 18:15:50.0000000,396,109\r
2023-11-16 18:15:48.0000000,20,0\r
";
const BURST_GPT: &str = "\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
118,GPT-4,417,276,693,Conversation log
";

fn read(text: &str, flags: &str) -> Trace {
    let file = TempFile::new(text);
    Trace::read(&file.path(), &config(flags).trace).unwrap()
}

fn requests(text: &str, flags: &str, seed: u64) -> Vec<PlannedRequest> {
    let file = TempFile::new(text);
    all(build(&config(&format!("--trace {} {flags}", file.path())), seed).unwrap())
}

fn ids(request: &PlannedRequest) -> &[u32] {
    match &request.prompt {
        Prompt::Tokens(tokens) => tokens,
        other => panic!("{other:?}"),
    }
}

fn millis(trace: &Trace) -> Vec<u128> {
    trace
        .rows()
        .iter()
        .map(|row| row.at().as_millis())
        .collect()
}

fn lengths(trace: &Trace) -> Vec<(u32, u32)> {
    trace
        .rows()
        .iter()
        .map(|row| (row.input, row.output))
        .collect()
}

#[test]
fn formats_give_times_and_lengths() {
    let mooncake = read(MOONCAKE, "");
    assert_eq!(millis(&mooncake), [0, 0, 0, 3000]);
    assert_eq!(lengths(&mooncake)[0], (1100, 64));
    assert_eq!(mooncake.hash_ids(&mooncake.rows()[1]), [0, 1, 3]);
    let azure = read(AZURE, "");
    assert_eq!(millis(&azure), [0, 3500]);
    assert_eq!(lengths(&azure), [(374, 44), (396, 109)]);
    assert_eq!(azure.counts().empty, 1);
    let burst_gpt = read(BURST_GPT, "");
    assert_eq!(millis(&burst_gpt), [0, 40_500, 113_000]);
    assert_eq!(lengths(&burst_gpt)[1], (1087, 230));
}

#[test]
fn equal_hash_ids_are_equal_tokens() {
    let requests = requests(MOONCAKE, "", 1);
    let prompts: Vec<&[u32]> = requests.iter().map(ids).collect();
    let sizes: Vec<usize> = prompts.iter().map(|it| it.len()).collect();
    assert_eq!(sizes, [1100, 1200, 500, 600]);
    assert_eq!(prompts[0][..1024], prompts[1][..1024]);
    assert_ne!(prompts[0][1024..1100], prompts[1][1024..1100]);
    assert_eq!(
        prompts[2],
        &prompts[0][..500],
        "a partial block is a prefix of the block"
    );
    assert_ne!(prompts[3][..512], prompts[0][..512]);
    let first = &requests[0];
    assert_eq!(
        (first.prompt_tokens, first.output.max_tokens),
        (Some(1100), 64)
    );
    assert_eq!(requests[3].recorded_at, Some(Duration::from_secs(3)));
    assert_eq!(requests[3].number, 3);
}

#[test]
fn rows_without_hash_ids_share_nothing() {
    let requests = requests(AZURE, "", 1);
    assert_ne!(ids(&requests[0])[..64], ids(&requests[1])[..64]);
}

#[test]
fn seed_decides_tokens() {
    assert_eq!(requests(MOONCAKE, "", 1), requests(MOONCAKE, "", 1));
    assert_ne!(
        requests(MOONCAKE, "", 1)[0].prompt,
        requests(MOONCAKE, "", 2)[0].prompt
    );
}

#[test]
fn scaling_keeps_the_blocks() {
    let trace = read(MOONCAKE, "--trace-scale 32");
    assert_eq!(trace.block_tokens(), 16);
    // The last block has 76, 176, 500 and 88 tokens.
    assert_eq!(lengths(&trace), [(34, 2), (38, 1), (16, 10), (19, 1)]);
    let requests = requests(MOONCAKE, "--trace-scale 32", 1);
    assert_eq!(ids(&requests[0])[..32], ids(&requests[1])[..32]);
    assert_eq!(lengths(&read(AZURE, "--trace-scale 32"))[0], (12, 1));
    assert_eq!(
        lengths(&read(AZURE, "--trace-output-scale 0.5"))[0],
        (374, 22)
    );
    let own_blocks = MOONCAKE
        .replace("[0, 1, 2]", "[0]")
        .replace("[0, 1, 3]", "[0]");
    let own_blocks = own_blocks.replace("[7, 8]", "[7]");
    assert_eq!(read(&own_blocks, "--trace-block 2048").block_tokens(), 2048);
}

#[test]
fn time_is_scaled_and_batches_are_spread() {
    assert_eq!(
        millis(&read(BURST_GPT, "--trace-speed 10")),
        [0, 4050, 11_300]
    );
    assert_eq!(
        millis(&read(MOONCAKE, "--trace-spread 3s")),
        [0, 1000, 2000, 3000]
    );
    assert_eq!(
        millis(&read(MOONCAKE, "--trace-spread 1h")),
        [0, 1000, 2000, 3000]
    );
    let fast = read(MOONCAKE, "--trace-spread 3s --trace-speed 2");
    assert_eq!(millis(&fast), [0, 500, 1000, 1500]);
}

#[test]
fn slices_are_by_rows_or_time() {
    let table: [(&str, &[u128]); 7] = [
        ("--trace-take 2", &[0, 40_500]),
        ("--trace-skip 1", &[0, 72_500]),
        ("--trace-skip 1 --trace-take 1", &[0]),
        ("--trace-take 41s", &[0, 40_500]),
        ("--trace-skip 30s", &[0, 72_500]),
        ("--trace-skip 30s --trace-take 20s", &[0]),
        ("--trace-skip 30s --trace-take 1", &[0]),
    ];
    for (flags, expected) in table {
        assert_eq!(millis(&read(BURST_GPT, flags)), expected, "{flags}");
    }
}

#[test]
fn rows_after_the_slice_are_not_read() {
    let broken = format!("{BURST_GPT}this is no row\n");
    assert_eq!(read(&broken, "--trace-take 3").rows().len(), 3);
}

#[test]
fn rows_are_put_in_order_of_time() {
    let mixed = BURST_GPT.replace("\n5,", "\n60,");
    let trace = read(&mixed, "");
    assert_eq!(millis(&trace), [0, 14_500, 72_500]);
    assert_eq!(lengths(&trace)[0].0, 1087);
}

#[test]
fn rows_over_the_context_are_dropped_or_cut_and_counted() {
    let dropped = read(MOONCAKE, "--max-context 900");
    assert_eq!(lengths(&dropped), [(500, 320), (600, 1)]);
    assert_eq!(dropped.counts().over_context, 2);
    let cut = read(MOONCAKE, "--max-context 300 --over-context cut");
    assert_eq!(lengths(&cut), [(236, 64), (290, 10), (1, 299), (299, 1)]);
    assert_eq!(cut.hash_ids(&cut.rows()[0]), [0]);
    assert_eq!(cut.counts().cut, 4);
    let told = |flags: &str| {
        let file = TempFile::new(MOONCAKE);
        let flags = format!("--trace {} {flags}", file.path());
        build(&config(&flags), 1).unwrap().caveats()
    };
    assert_eq!(
        told("--max-context 900 --trace-speed 2"),
        [
            "2 of 4 rows of the trace left out: longer than --max-context",
            "replayed 2 times as fast as recorded",
        ]
    );
    assert_eq!(told(""), Vec::<String>::new());
}

#[test]
fn bad_lines_are_named_by_number_with_what_is_expected() {
    let json = "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [0]}\n";
    let table = [
        (
            String::new(),
            "FILE: there is no request in it; expected is a Mooncake, Azure",
        ),
        (
            "a,b\n".to_owned(),
            "FILE:1: the format is not known; expected is a line",
        ),
        (
            format!("{json}\n{{\"timestamp\": 1}}\n"),
            "FILE:3: missing field `input_length` at column 16; expected is an object with",
        ),
        (
            format!("{json}{json}{{oops\n"),
            "FILE:3: key must be a string at column 2;",
        ),
        (
            json.replace("[0]", "[0, 1]"),
            "FILE:1: there are 2 hash_ids, but 5 tokens are 1 blocks of 512 (--trace-block);",
        ),
        (
            json.replace(": 0,", ": -1,"),
            "FILE:1: timestamp is below 0;",
        ),
        (
            "TIMESTAMP,ContextTokens\n".to_owned(),
            "FILE:1: the header has no column GeneratedTokens; expected is TIMESTAMP,",
        ),
        (
            AZURE.replace(",109", ",many"),
            "FILE:3: \"many\" is no number of tokens; expected is TIMESTAMP,",
        ),
        (
            AZURE.replace(",109", ""),
            "FILE:3: there are only 2 columns; expected",
        ),
        (
            AZURE.replace("18:15:50", "then"),
            "FILE:3: \"2023-11-16 then.0000000\" is no time;",
        ),
        (
            BURST_GPT.replace("118", "late"),
            "FILE:4: \"late\" is no time; expected is Timestamp,Model",
        ),
    ];
    for (text, expected) in table {
        let error = refused("--trace", &text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn slice_with_nothing_in_it_is_refused() {
    let error = refused("--trace-skip 9 --trace", MOONCAKE);
    assert_eq!(
        error,
        "FILE: there is no request in it after --trace-skip and --trace-take"
    );
    let error = refused("--max-context 2 --trace", BURST_GPT);
    let expected = "FILE: there is no request in it with a prompt and an answer that fits \
                    --max-context";
    assert_eq!(error, expected);
    assert!(refused("--trace", &AZURE[..41]).ends_with("there is no request in it"));
}

#[test]
fn blocks_must_stay_whole() {
    let error = refused("--trace-scale 3 --trace", MOONCAKE);
    assert!(
        error.starts_with("--trace-scale 3 does not divide --trace-block 512"),
        "{error}"
    );
    assert_eq!(lengths(&read(AZURE, "--trace-scale 1000"))[1], (1, 1));
}

#[test]
fn rows_are_kept_compact() {
    assert!(size_of::<Row>() <= 32);
}

#[test]
fn prompts_are_made_when_they_are_asked_for() {
    // All at once they would take 400 GB.
    let row = "2023-11-16 18:15:46.5000000,1000000,44\n".repeat(100_000);
    let file = TempFile::new(&format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{row}"));
    let flags = format!("--trace {}", file.path());
    let mut workload = build(&config(&flags), 1).unwrap();
    assert_eq!(workload.len_hint(), Some(100_000));
    assert_eq!(ids(&workload.next().unwrap()).len(), 1_000_000);
}

#[test]
fn real_traces_have_the_rows_they_are_said_to_have() {
    let Some(shared) = std::env::var_os("KVASIR_SHARED_DATA") else {
        println!("skipped: set KVASIR_SHARED_DATA to the folder that has traces/");
        return;
    };
    let traces = std::path::Path::new(&shared).join("traces");
    let read = |name: &str, flags: &str| {
        let path = traces.join(name).display().to_string();
        Trace::read(&path, &config(flags).trace).unwrap()
    };
    let mean = |trace: &Trace, length: fn(&Row) -> u32| {
        let sum: u64 = trace.rows().iter().map(|row| u64::from(length(row))).sum();
        sum as f64 / trace.rows().len() as f64
    };
    let table = [
        (
            "mooncake_conversation_first40min.jsonl",
            7_851,
            2_397,
            12_428.0,
            347.0,
        ),
        (
            "azure2023_conv_first36min.csv",
            12_755,
            2_160,
            1_232.0,
            202.0,
        ),
        ("azure2023_code_first36min.csv", 6_621, 2_081, 2_033.0, 27.5),
    ];
    for (name, rows, seconds, input, output) in table {
        let trace = read(name, "");
        assert_eq!(trace.rows().len(), rows, "{name}");
        let last = trace.rows()[rows - 1].at().as_secs_f64();
        assert!((last - f64::from(seconds)).abs() <= 1.0, "{name}: {last}");
        assert!(
            (mean(&trace, |row| row.input) - input).abs() < 1.0,
            "{name}"
        );
        assert!(
            (mean(&trace, |row| row.output) - output).abs() < 0.6,
            "{name}"
        );
    }
    let small = read(table[0].0, "--trace-scale 32");
    assert!((mean(&small, |row| row.input) - 388.0).abs() < 0.5);
    assert!((mean(&small, |row| row.output) - 11.0).abs() < 0.5);
    let blocks: usize = small
        .rows()
        .iter()
        .map(|row| small.hash_ids(row).len())
        .sum();
    assert_eq!(blocks, 194_284);
}
