use super::*;

fn zeroed(arena: &Arena, len: usize) -> Pages<u32> {
    let pages = arena.zeroed(len).unwrap();
    assert_eq!(pages.len(), len);
    assert!(pages.iter().all(|&number| number == 0));
    pages
}

#[test]
fn all_begins_as_zeros_and_nothing_lies_on_anything_else() {
    let arena = Arena::new("numbers");
    let lens = [
        0,
        1,
        1000,
        LARGE / 4,
        MAPPED / 4,
        LARGE / 4 + 1,
        3,
        MAPPED / 4 + 5,
        7,
    ];
    let mut all: Vec<_> = lens.iter().map(|&len| zeroed(&arena, len)).collect();
    let number = |i: usize, j: usize| (i * 1_000_003 + j) as u32;
    for (i, pages) in all.iter_mut().enumerate() {
        for (j, found) in pages.iter_mut().enumerate() {
            *found = number(i, j);
        }
    }
    for (i, pages) in all.iter().enumerate() {
        assert!(
            pages
                .iter()
                .enumerate()
                .all(|(j, &found)| found == number(i, j))
        );
    }
}

#[test]
fn numbers_begin_at_cache_lines_and_share_large_pages() {
    let arena = Arena::new("numbers");
    let (first, second) = (zeroed(&arena, 5), zeroed(&arena, 5));
    assert_eq!(first.as_ptr().addr() % LARGE, 0);
    assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), ALIGNMENT);
}

#[test]
fn memory_is_given_back_with_the_last_that_lies_there() {
    let arena = Arena::new("numbers");
    let pages = zeroed(&arena, 5);
    let mapping = Arc::downgrade(pages._mapping.as_ref().unwrap());
    drop(arena);
    assert!(pages.iter().all(|&number| number == 0));
    drop(pages);
    assert_eq!(mapping.strong_count(), 0);
}

#[test]
fn more_than_there_can_be_is_refused() {
    let arena = Arena::new("numbers");
    for len in [usize::MAX, usize::MAX / 4, usize::MAX / 8] {
        assert!(arena.zeroed::<u32>(len).is_err());
    }
    zeroed(&arena, 9);
}
