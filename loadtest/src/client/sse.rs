//! Server-sent events, read as bytes arrive (WHATWG HTML, section 9.2.6).

/// A longer event is no answer of the API, and is not kept in memory.
const LONGEST_EVENT: usize = 16 << 20;

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Of its `event` field; empty if it has none.
    pub name: &'a [u8],
    /// Its `data` fields, joined by line feeds.
    pub data: &'a [u8],
}

/// An event grew over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {LONGEST_EVENT} bytes")]
pub struct TooLong;

/// Takes bytes however they are cut, and gives whole events.
#[derive(Debug, Default)]
pub struct Parser {
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return that ended a line: a line feed that
    /// follows belongs to it.
    after_return: bool,
    /// The first line has been read: a byte order mark may no longer come.
    started: bool,
}

impl Parser {
    /// Reads more bytes, and hands every event that is now whole to `take`.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Event<'_>)) -> Result<(), TooLong> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|it| matches!(it, b'\n' | b'\r')) {
            let (line, ended) = rest.split_at(end);
            if self.line.is_empty() {
                self.read_line(line, &mut take);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.read_line(&whole, &mut take);
                whole.clear();
                self.line = whole;
            }
            let is_return = ended[0] == b'\r';
            rest = &ended[1..];
            if is_return {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            if self.data.len() > LONGEST_EVENT {
                return Err(TooLong);
            }
        }
        self.line.extend_from_slice(rest);
        if self.line.len() > LONGEST_EVENT {
            return Err(TooLong);
        }
        Ok(())
    }

    /// The stream ended in order. Gives an event whose last line ends are
    /// missing, as some servers leave them out.
    pub fn finish(&mut self, mut take: impl FnMut(Event<'_>)) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.read_line(&line, &mut take);
        }
        self.dispatch(&mut take);
    }

    fn read_line(&mut self, line: &[u8], take: &mut impl FnMut(Event<'_>)) {
        let mark = if self.started {
            None
        } else {
            line.strip_prefix(b"\xef\xbb\xbf")
        };
        let line = mark.unwrap_or(line);
        self.started = true;
        if line.is_empty() {
            return self.dispatch(take);
        }
        let colon = line.iter().position(|it| *it == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // Comments have an empty name; `id` and `retry` say nothing here.
            _ => {}
        }
    }

    fn dispatch(&mut self, take: &mut impl FnMut(Event<'_>)) {
        if self.has_data {
            take(Event {
                name: &self.name,
                data: &self.data,
            });
        }
        self.name.clear();
        self.data.clear();
        self.has_data = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `stream` cut into pieces of `size` bytes.
    fn read(stream: &[u8], size: usize) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        let text = |it: &[u8]| String::from_utf8(it.to_vec()).unwrap();
        let mut take = |it: Event<'_>| events.push((text(it.name), text(it.data)));
        for piece in stream.chunks(size) {
            parser.push(piece, &mut take).unwrap();
        }
        parser.finish(&mut take);
        events
    }

    #[test]
    fn reads_events_however_the_bytes_are_cut() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("data: a\n\n", &[("", "a")]),
            ("data:a\n\n", &[("", "a")]),
            ("data:  a\n\n", &[("", " a")]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]),
            ("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            ("data: a\ndata: b\n\n", &[("", "a\nb")]),
            ("data: a\r\ndata: b\r\n\r\n", &[("", "a\nb")]),
            ("data\n\n", &[("", "")]),
            ("data\ndata\n\n", &[("", "\n")]),
            (": ping\n\ndata: a\n\n", &[("", "a")]),
            (":\n:\ndata: a\n: b\n\n", &[("", "a")]),
            (
                "event: error\ndata: {}\n\ndata: b\n\n",
                &[("error", "{}"), ("", "b")],
            ),
            ("event: lost\n\ndata: a\n\n", &[("", "a")]),
            ("id: 1\nretry: 2\nother: 3\ndata: a\n\n", &[("", "a")]),
            ("\u{feff}data: a\n\n", &[("", "a")]),
            ("data: a\n\n\u{feff}data: b\n\n", &[("", "a")]),
            ("data: \u{feff}\u{e9}\n\n", &[("", "\u{feff}\u{e9}")]),
            ("\n\n\ndata: a\n\n\n\n", &[("", "a")]),
            ("data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]),
            ("data: a\n\ndata: [DONE]\n", &[("", "a"), ("", "[DONE]")]),
            ("data: a:b\n\n", &[("", "a:b")]),
        ];
        for (stream, expected) in cases {
            for size in 1..=stream.len().max(1) {
                let events = read(stream.as_bytes(), size);
                let events: Vec<_> = events.iter().map(|(a, b)| (&**a, &**b)).collect();
                assert_eq!(&events, expected, "{stream:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn gives_an_event_as_soon_as_its_last_line_ends() {
        let mut parser = Parser::default();
        let mut count = 0;
        parser.push(b"data: a\r\n\r", |_| count += 1).unwrap();
        assert_eq!(count, 1);
        parser.push(b"\ndata: b\n", |_| count += 1).unwrap();
        assert_eq!(count, 1);
        parser.push(b"\n", |_| count += 1).unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn refuses_an_event_without_end() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; LONGEST_EVENT];
        assert_eq!(parser.push(&piece, |_| ()), Ok(()));
        assert_eq!(parser.push(b"x", |_| ()), Err(TooLong));

        let mut parser = Parser::default();
        let mut line = b"data: ".to_vec();
        line.resize(1 << 20, b'x');
        line.push(b'\n');
        let read: Result<Vec<()>, TooLong> = (0..20).map(|_| parser.push(&line, |_| ())).collect();
        assert_eq!(read, Err(TooLong));
    }
}
