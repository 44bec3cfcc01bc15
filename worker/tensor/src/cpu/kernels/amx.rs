//! Tiles.
pub(in crate::cpu) fn is_available() -> bool {
    false
}
