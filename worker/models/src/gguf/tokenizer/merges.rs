//! Merges of a SentencePiece vocabulary, of which files have only scores.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Longest piece that is cut: beyond it, cuts would take time out of
/// proportion to the file.
const LONGEST: usize = 256;

/// Every way to put a token together from two others, best score first; among
/// equals, longer first halves, then longer second halves, first.
pub(super) fn from_scores(tokens: &[String], scores: &[f32]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        if token.len() > LONGEST {
            continue;
        }
        let cuts = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at));
        let mut of_token: Vec<_> = cuts
            .filter_map(|(first, second)| Some((*ids.get(first)?, *ids.get(second)?)))
            .collect();
        of_token.sort_unstable();
        merges.extend(of_token.into_iter().map(|halves| (score, halves)));
    }
    let length = |id: usize| tokens[id].chars().count();
    merges.sort_by_cached_key(|&(score, (first, second))| {
        Reverse((ordered(score), length(first), length(second)))
    });
    merges
        .into_iter()
        .map(|(_, (first, second))| (tokens[first].clone(), tokens[second].clone()))
        .collect()
}

/// An integer with the order of the float.
fn ordered(score: f32) -> i32 {
    let bits = score.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_merge_first() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"].map(str::to_owned);
        let scores = [0.0, 0.0, 0.0, -2.0, -1.0, -3.0];
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let expected = [
            pair("b", "c"),
            pair("a", "b"),
            pair("ab", "c"),
            pair("a", "bc"),
        ];
        assert_eq!(from_scores(&tokens, &scores), expected);
    }

    #[test]
    fn floats_keep_their_order() {
        let scores = [f32::NEG_INFINITY, -2.0, -1e-9, 0.0, 1e-9, 3.0];
        assert!(
            scores
                .windows(2)
                .all(|pair| ordered(pair[0]) < ordered(pair[1]))
        );
    }
}
