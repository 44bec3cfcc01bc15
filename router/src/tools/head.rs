//! The beginning of a call whose name stands plainly: `NAME[ARGS]`, or
//! `NAME[CALL_ID]ID[ARGS]`, or `NAME` alone, and then the arguments' `{`.

pub(super) const ARGUMENTS: &str = "[ARGS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";

/// Whether more characters may make a head of `text`.
pub(super) fn may_become(text: &str) -> bool {
    let (name, marks) = split(text);
    let named = name.chars().all(is_of_name) && (!name.is_empty() || marks.is_empty());
    let marked = match after_id(marks) {
        Some(rest) => ARGUMENTS.starts_with(rest),
        None => CALL_ID.starts_with(marks) || ARGUMENTS.starts_with(marks),
    };
    named && marked
}

/// The name in a head that is whole.
pub(super) fn name(text: &str) -> Option<&str> {
    let (name, marks) = split(text);
    let whole = matches!(marks, "" | ARGUMENTS) || after_id(marks) == Some(ARGUMENTS);
    (whole && !name.is_empty() && name.chars().all(is_of_name)).then_some(name)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (name, marks) = text.split_at(text.find('[').unwrap_or(text.len()));
    (name.trim_end(), marks)
}

fn after_id(marks: &str) -> Option<&str> {
    let id = marks.strip_prefix(CALL_ID)?;
    Some(id.trim_start_matches(|char: char| char.is_ascii_alphanumeric()))
}

fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || "_-.".contains(char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_marks_or_arguments_begin() {
        let table = [
            ("f", Some("f")),
            (" get-it_2.x [ARGS] ", Some("get-it_2.x")),
            ("f[CALL_ID]a1B2c3D4e[ARGS]", Some("f")),
            ("f[CALL_ID]a1", None),
            ("f[AR", None),
            ("[ARGS]", None),
            ("", None),
            ("two words", None),
            ("f[ARGS]x", None),
        ];
        for (head, expected) in table {
            assert_eq!(name(head), expected, "{head}");
        }
    }

    #[test]
    fn what_may_become_a_head_is_known_at_every_character() {
        for head in [" f [ARGS] ", "f[CALL_ID]a1B2c3D4e[ARGS]"] {
            for end in 0..=head.len() {
                assert!(may_become(&head[..end]), "{}", &head[..end]);
            }
        }
        for text in ["two w", "f[x", "[ARGS]", "f[ARGS]x", "f[CALL_ID]-", "é"] {
            assert!(!may_become(text), "{text}");
        }
    }
}
