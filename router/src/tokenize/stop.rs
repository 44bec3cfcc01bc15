//! Stop strings, matched across the borders of tokens: text that may still
//! become a stop string is held back.

use std::sync::Arc;

/// Passes text on up to the stop string that is complete first (of several
/// complete at the same place: the longest). How the text is cut into pieces
/// makes no difference.
#[derive(Clone, Debug)]
pub(super) struct StopStrings {
    strings: Arc<[String]>,
    /// Whether the stop string itself is passed on too.
    include: bool,
    held: String,
}

impl StopStrings {
    pub(super) fn new(strings: Arc<[String]>, include: bool) -> StopStrings {
        StopStrings {
            strings,
            include,
            held: String::new(),
        }
    }

    /// Appends what is safe to show to `out`; true if a stop string is
    /// complete, after which nothing may follow.
    pub(super) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.strings.is_empty() {
            out.push_str(text);
            return false;
        }
        self.held.push_str(text);
        if let Some((start, end)) = self.first_complete() {
            out.push_str(&self.held[..if self.include { end } else { start }]);
            self.held.clear();
            return true;
        }
        let safe = self.held.len() - self.partial();
        out.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }

    /// Passes text on without looking for stop strings, as long as none may end
    /// the sequence.
    pub(super) fn bypass(&mut self, text: &str, out: &mut String) {
        self.flush(out);
        out.push_str(text);
    }

    /// The sequence ended: what was held back is no stop string.
    pub(super) fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    fn first_complete(&self) -> Option<(usize, usize)> {
        self.strings
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop)
                    .map(|start| (start, start + stop.len()))
            })
            .min_by_key(|&(start, end)| (end, start))
    }

    /// Bytes at the end that a stop string may begin with.
    fn partial(&self) -> usize {
        let held = self.held.as_bytes();
        self.strings
            .iter()
            .map(|stop| {
                let stop = stop.as_bytes();
                let longest = held.len().min(stop.len() - 1);
                (1..=longest)
                    .rev()
                    .find(|&length| held.ends_with(&stop[..length]))
                    .unwrap_or(0)
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut stops = StopStrings::new(stops.into(), false);
        let mut out = String::new();
        for piece in pieces {
            if stops.push(piece, &mut out) {
                return (out, true);
            }
        }
        stops.flush(&mut out);
        (out, false)
    }

    #[test]
    fn matches_across_pieces() {
        let check = |stops: &[&str], pieces: &[&str], text: &str, stopped| {
            assert_eq!(
                run(stops, pieces),
                (text.to_owned(), stopped),
                "{stops:?} {pieces:?}"
            );
        };
        check(&["END"], &["a E", "N", "D b"], "a ", true);
        check(&["END"], &["a E", "N", "d b"], "a ENd b", false);
        check(&["END"], &["EN", "EN", "D"], "EN", true);
        check(&["abcd", "bc"], &["xab", "c"], "xa", true);
        check(&["bc", "abc"], &["x", "abc"], "x", true);
        check(&["\n\n"], &["one\n", "two\n"], "one\ntwo\n", false);
        check(&["é"], &["caf", "é"], "caf", true);
        check(&[], &["free"], "free", false);
    }

    #[test]
    fn holds_back_no_more_than_a_possible_stop() {
        let mut stops = StopStrings::new(Arc::from(["<end>".to_owned()]), false);
        let mut out = String::new();
        assert!(!stops.push("text <e", &mut out));
        assert_eq!(out, "text ");
        assert!(!stops.push("m>", &mut out));
        assert_eq!(out, "text <em>");
    }

    #[test]
    fn stop_string_can_be_included() {
        let mut stops = StopStrings::new(Arc::from(["STOP".to_owned()]), true);
        let mut out = String::new();
        assert!(stops.push("now STOP it", &mut out));
        assert_eq!(out, "now STOP");
    }

    /// What the module promises, looking at the whole text.
    fn reference(stops: &[String], text: &str) -> (String, bool) {
        for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let done = stops
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_str()));
            if let Some(length) = done.map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn cut_of_the_text_makes_no_difference(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,4}", 0..12),
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let piece_refs: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stop_refs, &piece_refs), reference(&stops, &pieces.concat()));
        }
    }
}
