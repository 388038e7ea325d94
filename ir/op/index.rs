//! Where the table's lines are, by a hash: nearly all that planish does begins with a look into the table.

use super::{OpSpec, TABLE};

/// A power of two, several times as many as there are operators.
const SLOTS: usize = 1024;
const EMPTY: u16 = u16::MAX;

/// Open addressing: an operator is in the slot of its hash, or in the first one after it that was free.
static INDEX: [u16; SLOTS] = index();

/// The line of an operator.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static OpSpec> {
    let mut slot = slot_of(domain, name);
    loop {
        let spec = TABLE.get(usize::from(INDEX[slot]))?;
        if spec.name == name && spec.domain == domain {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

const fn index() -> [u16; SLOTS] {
    assert!(
        TABLE.len() < SLOTS / 2,
        "a search would go on for ever in a full index, and long in one that is half full"
    );
    let mut index = [EMPTY; SLOTS];
    let mut line = 0;
    while line < TABLE.len() {
        let mut slot = slot_of(TABLE[line].domain, TABLE[line].name);
        while index[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = line as u16;
        line += 1;
    }
    index
}

const fn slot_of(domain: &str, name: &str) -> usize {
    let hash = fnv(fnv(0xcbf2_9ce4_8422_2325, name.as_bytes()), domain.as_bytes());
    (hash ^ (hash >> 32)) as usize % SLOTS
}

/// FNV-1a, which is short enough to be computed at compile time.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
        i += 1;
    }
    hash
}
