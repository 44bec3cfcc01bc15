//! Lookups: from run to run along a prompt, while a writer may be at work.
//!
//! A block's hash stands for its whole prefix, so a prompt that meets a run at
//! two depths has all the blocks between: a run costs two looks into the table,
//! however long it is, and a search for the place where the prompt leaves it.
//! Nothing here waits: a look is repeated only when a change was completed
//! meanwhile.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::fence;

use super::holder::{Holder, HoldersWord, Ticks};
use super::overlaps::{Overlaps, Reading};
use super::root::{NOBODY, Place, Range, Root, Run};

/// What one look at a prompt's next run found.
enum Look {
    /// Blocks whose holders are staged.
    Run(Reading),
    /// Nobody holds the next block.
    Miss,
    /// A change came between.
    Again,
    /// The index has grown past this root.
    Outgrown,
}

/// Fills `overlaps` for a prompt of `hashes`. `false`: `root` is too old.
/// `pause` is called where a change would come at the worst time: when a run's
/// record is read and its list is not.
pub(super) fn walk(
    root: &Root,
    (is_current, pause): (impl Fn() -> bool, impl Fn()),
    (hashes, now): (&[u64], Ticks),
    overlaps: &mut Overlaps,
) -> bool {
    overlaps.clear();
    let mut at = 0;
    while at < hashes.len() {
        match look(root, &pause, (&hashes[at..], now), overlaps) {
            Look::Run(reading) => {
                at += reading.blocks as usize;
                if !overlaps.commit(reading) {
                    break;
                }
            }
            Look::Miss => break,
            Look::Again if is_current() => {}
            Look::Again | Look::Outgrown => return false,
        }
    }
    // Segments that were replaced meanwhile stood still.
    is_current()
}

fn look(
    root: &Root,
    pause: &impl Fn(),
    (hashes, now): (&[u64], Ticks),
    overlaps: &mut Overlaps,
) -> Look {
    let Some(slot) = root.slot(hashes[0]) else {
        return Look::Miss;
    };
    let word = slot.place.load(Acquire);
    let Some(place) = Place::decode(word) else {
        return Look::Miss;
    };
    let Some(run) = root.run(place.run) else {
        return Look::Outgrown;
    };
    let version = run.version.load(Acquire);
    let range = Range::decode(run.range.load(Acquire));
    let holders = HoldersWord::decode(run.holders.load(Acquire));
    if holders == HoldersWord::None {
        return match slot.place.load(Acquire) == word && unchanged(run, version) {
            true => Look::Miss,
            false => Look::Again,
        };
    }
    if !(range.start..range.end).contains(&place.depth) {
        return Look::Again;
    }
    pause();
    let blocks = extent(root, place, range, hashes) as u32;
    let reading = Reading { blocks, now };
    if !stage(root, (holders, reading), overlaps) {
        return Look::Outgrown;
    }
    match blocks > 0 && unchanged(run, version) {
        true => Look::Run(reading),
        false => Look::Again,
    }
}

fn unchanged(run: &Run, version: u64) -> bool {
    fence(Acquire);
    run.version.load(Relaxed) == version
}

/// How many of `hashes`, the first of which is at `place`, are in its run.
pub(super) fn extent(root: &Root, place: Place, range: Range, hashes: &[u64]) -> usize {
    let reach = hashes.len().min((range.end - place.depth) as usize);
    let is_at = |blocks: usize| root.place(hashes[blocks]) == Some(place.plus(blocks));
    if range.holed {
        return (0..reach).take_while(|blocks| is_at(*blocks)).count();
    }
    if is_at(reach - 1) {
        return reach;
    }
    // The prompt leaves the run before its end: `inside` blocks are in it for
    // sure, and the block at `outside` is not.
    let (mut inside, mut outside, mut step) = (0, reach - 1, 1);
    while inside + step <= outside {
        let probe = inside + step - 1;
        if !is_at(probe) {
            outside = probe;
            break;
        }
        inside = probe + 1;
        step *= 2;
    }
    while inside < outside {
        let middle = inside + (outside - inside) / 2;
        match is_at(middle) {
            true => inside = middle + 1,
            false => outside = middle,
        }
    }
    inside
}

/// `false`: the list is not in this root.
fn stage(root: &Root, (holders, of): (HoldersWord, Reading), overlaps: &mut Overlaps) -> bool {
    let worker_of = |lane| {
        root.lane(lane)
            .map_or(NOBODY, |worker| worker.load(Acquire))
    };
    overlaps.unstage();
    match holders {
        HoldersWord::None => {}
        HoldersWord::One(holder) => overlaps.stage(holder, of, worker_of),
        HoldersWord::List { at, len } => {
            let Some(list) = root.list(at, len) else {
                return false;
            };
            overlaps.expect(list.len());
            for word in list {
                overlaps.stage(Holder(word.load(Acquire)), of, worker_of);
            }
        }
    }
    true
}
