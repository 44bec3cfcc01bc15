//! Text of common English words, for servers whose tokenizer is not known. Most
//! vocabularies have a token for each of them, so a word is about a token.

use super::{Segment, draw};

const WORDS: [&str; 128] = [
    "about", "above", "after", "again", "air", "all", "along", "animal", "answer", "any", "area",
    "ask", "back", "base", "before", "begin", "best", "big", "black", "blue", "body", "book",
    "both", "box", "boy", "bring", "build", "call", "car", "care", "change", "city", "class",
    "clear", "close", "cold", "color", "come", "common", "country", "course", "cover", "cut",
    "dark", "day", "deep", "door", "down", "draw", "drive", "each", "early", "earth", "east",
    "end", "even", "ever", "every", "eye", "face", "fall", "family", "far", "farm", "fast",
    "father", "feel", "few", "field", "find", "fire", "first", "fish", "five", "fly", "follow",
    "food", "foot", "force", "form", "four", "free", "friend", "front", "full", "game", "girl",
    "give", "go", "gold", "good", "great", "green", "ground", "group", "grow", "half", "hand",
    "hard", "head", "hear", "heart", "heat", "help", "here", "high", "hold", "home", "horse",
    "hot", "hour", "house", "idea", "inch", "island", "keep", "kind", "king", "know", "land",
    "large", "last", "late", "laugh", "lead", "learn", "leave", "left",
];

pub(super) fn text(segments: &[Segment]) -> String {
    let words: Vec<&str> = draw(WORDS.len(), segments).map(|at| WORDS[at]).collect();
    words.join(" ")
}
