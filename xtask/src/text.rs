//! Text that no cache knows: English words with marks between them, and now and
//! then a name or a number that was never said before.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;

use anyhow::Result;
use serde_json::json;

/// One word of so many is new.
const NEW_ONE_OF: u64 = 12;

const WORDS: &str = "the a of to and in is it that for was on with as be at by this from or have \
    an they which one you were all her she there would their we him been has when who will no \
    more if out so up said what its about than into them can only other time new some could \
    these two may first then do any like my now over such our man me even most made after also \
    did many off before must well back through years where much your way down should because \
    long each just state people those too mr how little world very year still see own work men \
    day get here old life both between being under three never know same last another while us \
    might great against take come since house use himself few during without again place \
    American around however home small found thought went say part once general high upon \
    school every don't does got united left number course war until always away something fact \
    through water though less public put think almost hand enough took head yet government \
    system better set told nothing night end why didn't called eyes find going look asked later \
    knew point next program city business give group toward young days let room president side \
    social given present several order national possible rather second face per among form \
    important often things looked early white case large become big need four within felt \
    along children saw best church ever least power development light thing seemed family \
    interest want members mind country area others done turned although open God service \
    problem certain kind different began thus help sense means whole matter";

/// No special tokens, and no single bytes.
const TOKEN_IDS: Range<u64> = 300..1000;

/// A stream of text that depends on its seed alone.
pub struct Text {
    state: u64,
    words: Vec<&'static str>,
}

impl Text {
    pub fn new(seed: u64) -> Text {
        Text {
            state: seed,
            words: WORDS.split_whitespace().collect(),
        }
    }

    /// At least `bytes` of text, and at most a word more.
    pub fn take(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 32);
        while text.len() < bytes {
            match self.below(NEW_ONE_OF) {
                0 => self.new_word(&mut text),
                _ => {
                    let at = self.below(self.words.len() as u64) as usize;
                    text.push_str(self.words[at]);
                }
            }
            text.push_str(match self.below(24) {
                0 => ". ",
                1 => ",\n",
                2 => "; ",
                3 => " (",
                4 => ") ",
                _ => " ",
            });
        }
        text
    }

    /// Ids of tokens that are plain text in almost every vocabulary.
    pub fn tokens(&mut self, count: usize) -> Vec<u64> {
        let ids = TOKEN_IDS.end - TOKEN_IDS.start;
        (0..count)
            .map(|_| TOKEN_IDS.start + self.below(ids))
            .collect()
    }

    fn new_word(&mut self, text: &mut String) {
        if self.below(3) == 0 {
            text.push_str(&self.below(1_000_000).to_string());
            return;
        }
        for _ in 0..4 + self.below(8) {
            text.push(char::from(b'a' + self.below(26) as u8));
        }
    }

    /// SplitMix64 (Steele et al. 2014).
    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Writes prompts of `bytes` each as a prompt file of the load generator.
pub fn write_prompts(path: &str, seed: u64, count: usize, bytes: usize) -> Result<()> {
    let mut text = Text::new(seed);
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..count {
        writeln!(file, "{}", json!({"prompt": text.take(bytes)}))?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_length_asked_for_and_does_not_repeat() {
        let mut text = Text::new(1);
        let (a, b) = (text.take(10_000), text.take(10_000));
        assert!((10_000..10_032).contains(&a.len()), "{}", a.len());
        assert_ne!(a, b);
        assert_eq!(Text::new(1).take(10_000), a);
        assert_ne!(Text::new(2).take(10_000), a);
    }

    #[test]
    fn tokens_are_plain_text_and_do_not_repeat() {
        let mut text = Text::new(1);
        let (a, b) = (text.tokens(100), text.tokens(100));
        assert_eq!(a.len(), 100);
        assert!(a.iter().all(|id| TOKEN_IDS.contains(id)), "{a:?}");
        assert_ne!(a, b);
    }
}
