use super::*;

#[test]
fn times_of_azure_traces_are_read() {
    let table = [
        ("1970-01-01 00:00:00", Some(0)),
        ("1970-01-02 00:00:01.5", Some(86_401_500_000_000)),
        (
            "2023-11-16 18:15:46.6805900",
            Some(1_700_158_546_680_590_000),
        ),
        (
            "2024-05-10 00:00:00.009930+00:00",
            Some(1_715_299_200_009_930_000),
        ),
        ("2024-02-29T23:59:59Z", Some(1_709_251_199_000_000_000)),
        ("2024-05-10 02:00:00+02:00", Some(1_715_299_200_000_000_000)),
        ("2024-05-09 22:30:00-01:30", Some(1_715_299_200_000_000_000)),
        ("2023-13-16 18:15:46", None),
        ("2023-11-16", None),
        ("2023-11-16 25:00:00", None),
        ("2023-11-16 18:15:46.x", None),
        ("18:15:46", None),
    ];
    for (text, expected) in table {
        assert_eq!(date_and_time(text), expected, "{text}");
    }
}

#[test]
fn first_line_tells_the_kind() {
    let table = [
        ("{\"timestamp\":0}", Some(TraceKind::Mooncake)),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            Some(TraceKind::Azure),
        ),
        (
            "Timestamp,Model,Request tokens,Response tokens",
            Some(TraceKind::BurstGpt),
        ),
        ("a,b,c", None),
    ];
    for (line, expected) in table {
        assert_eq!(trace_kind(TraceKind::Auto, line), expected, "{line}");
    }
    assert_eq!(trace_kind(TraceKind::Azure, "{"), Some(TraceKind::Azure));
}

#[test]
fn columns_are_found_by_name() {
    let header = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens";
    let names = ["Timestamp", "Request tokens", "Response tokens"];
    let columns = Columns::find(header, names).unwrap();
    let row = columns.row("45.5,9,GPT-4,472.0,18,490", seconds).unwrap();
    let expected = Recorded {
        at_nanos: 45_500_000_000,
        input: 472,
        output: 18,
        hash_ids: Vec::new(),
    };
    assert_eq!(row, expected);
}
