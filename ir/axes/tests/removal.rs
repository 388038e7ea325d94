//! What a class promises, tried out: whoever takes a channel out of all members at once takes the same elements out of every
//! value, through any sequence of moves.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use crate::{
    Attrs, GraphPath, ValueId,
    axes::{Block, Class, classes},
    infer::{Bindings, infer, testing::Draft},
};

/// A value, its dims, and which element of the input is where.
#[derive(Clone)]
struct Moved {
    value: ValueId,
    dims: Vec<usize>,
    ids: Vec<usize>,
}

impl Moved {
    fn at(&self, flat: usize, axis: usize) -> usize {
        let inner: usize = self.dims[axis + 1..].iter().product();
        flat / inner % self.dims[axis]
    }

    fn with(&self, value: ValueId, dims: Vec<usize>, pick: impl Fn(&[usize]) -> Option<usize>) -> Moved {
        let count = dims.iter().product();
        let index = |flat: usize| {
            let mut rest = flat;
            let mut index = vec![0; dims.len()];
            for (i, d) in dims.iter().enumerate().rev() {
                index[i] = rest % d;
                rest /= d;
            }
            index
        };
        Moved { value, ids: (0..count).filter_map(|f| Some(self.ids[pick(&index(f))?])).collect(), dims }
    }

    fn flat(&self, index: &[usize]) -> usize {
        index.iter().zip(&self.dims).fold(0, |n, (i, d)| n * d + i)
    }
}

/// Dims with a given product, chosen by numbers.
fn factors(mut count: usize, choices: &[u8]) -> Vec<usize> {
    let mut dims = Vec::new();
    for &c in choices {
        let divisors: Vec<usize> = (1..=count).filter(|d| count.is_multiple_of(*d)).collect();
        let d = divisors[usize::from(c) % divisors.len()];
        dims.push(d);
        count /= d;
    }
    dims.push(count);
    dims
}

/// One more value, made from the one that the step chooses.
fn step(d: &mut Draft, all: &mut Vec<Moved>, choices: &[u8]) {
    let from = all[usize::from(choices[0]) % all.len()].clone();
    let axis = usize::from(choices[1]) % from.dims.len();
    match choices[2] % 4 {
        0 => {
            let dims = factors(from.ids.len(), &choices[3..]);
            let target = d.ints(&dims.iter().map(|&n| n as i64).collect::<Vec<_>>());
            let value = d.node("Reshape", &[from.value, target], Attrs::new());
            all.push(Moved { value, dims, ids: from.ids });
        }
        1 => {
            let mut perm: Vec<usize> = (0..from.dims.len()).collect();
            perm.rotate_left(axis);
            if choices[3].is_multiple_of(2) && perm.len() > 1 {
                perm.swap(0, 1);
            }
            let attr: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
            let value = d.node("Transpose", &[from.value], Attrs::new().with("perm", attr));
            let dims = perm.iter().map(|&p| from.dims[p]).collect();
            let back = |index: &[usize]| {
                let mut old = vec![0; index.len()];
                perm.iter().zip(index).for_each(|(&p, &i)| old[p] = i);
                Some(from.flat(&old))
            };
            all.push(from.with(value, dims, back));
        }
        2 => {
            let size = from.dims[axis];
            let cut = usize::from(choices[3]) % (size + 1);
            if cut == 0 || cut == size {
                return;
            }
            let sizes = d.ints(&[cut as i64, (size - cut) as i64]);
            let attrs = Attrs::new().with("axis", axis as i64);
            let made = d.nodes("Split", &[Some(from.value), Some(sizes)], attrs, 2);
            for (value, start, n) in [(made[0], 0, cut), (made[1], cut, size - cut)] {
                let mut dims = from.dims.clone();
                dims[axis] = n;
                all.push(from.with(value, dims, |index| {
                    let mut old = index.to_vec();
                    old[axis] += start;
                    Some(from.flat(&old))
                }));
            }
        }
        _ => {
            let fits = |m: &&Moved| {
                m.dims.len() == from.dims.len() && (0..m.dims.len()).all(|a| a == axis || m.dims[a] == from.dims[a])
            };
            let others: Vec<Moved> = all.iter().filter(fits).cloned().collect();
            let other = &others[usize::from(choices[3]) % others.len()];
            let attrs = Attrs::new().with("axis", axis as i64);
            let value = d.node("Concat", &[from.value, other.value], attrs);
            let mut dims = from.dims.clone();
            dims[axis] += other.dims[axis];
            if dims.iter().product::<usize>() > 200 {
                return;
            }
            let both =
                Moved { value, dims: vec![from.ids.len() + other.ids.len()], ids: [&*from.ids, &other.ids].concat() };
            let offset = from.ids.len();
            all.push(both.with(value, dims, |index| {
                let mut old = index.to_vec();
                if old[axis] < from.dims[axis] {
                    return Some(from.flat(&old));
                }
                old[axis] -= from.dims[axis];
                Some(offset + other.flat(&old))
            }));
        }
    }
}

/// Elements of a value that go with channel `i`.
fn taken(class: &Class, i: u64, moved: &Moved) -> BTreeSet<usize> {
    let mut taken = BTreeSet::new();
    for m in class.members.iter().filter(|m| m.value == moved.value) {
        let places = m.places(i).unwrap();
        assert!(places.iter().all(|&p| (p as usize) < moved.dims[m.axis]));
        assert!(places.windows(2).all(|w| w[0] < w[1]));
        taken.extend(
            (0..moved.ids.len()).filter(|&f| places.contains(&(moved.at(f, m.axis) as u64))).map(|f| moved.ids[f]),
        );
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_channel_is_the_same_elements_everywhere(
        start in vec(any::<u8>(), 2),
        steps in vec(vec(any::<u8>(), 6), 1..8),
    ) {
        let mut d = Draft::new(17);
        let dims = factors(48, &start);
        let names: Vec<String> = dims.iter().map(ToString::to_string).collect();
        let value = d.input("x", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut all = vec![Moved { value, dims, ids: (0..48).collect() }];
        steps.iter().for_each(|s| step(&mut d, &mut all, s));
        let inferred = infer(&d.model, &Bindings::new());
        let found = classes(&d.model, &inferred);
        let mut free = 0;
        for class in found.all().iter().filter(|c| c.blocks.iter().all(|b| matches!(b, Block::Input(_)))) {
            // The targets of `Reshape` have classes of their own.
            if !all.iter().any(|m| class.members.iter().any(|n| n.value == m.value)) {
                continue;
            }
            for i in 0..class.size.known().unwrap() {
                let gone: BTreeSet<usize> = all.iter().flat_map(|m| taken(class, i, m)).collect();
                for m in &all {
                    let expected: BTreeSet<usize> = m.ids.iter().copied().filter(|id| gone.contains(id)).collect();
                    prop_assert_eq!(taken(class, i, m), expected, "channel {} of {}", i, found.show(&d.model, |_| true, |_| true));
                }
            }
            free += 1;
        }
        // Without a step that crosses blocks, everything is free.
        prop_assert!(free > 0 || found.all().iter().any(|c| !c.blocks.is_empty()));
    }
}

#[test]
fn along_lists_the_classes_of_an_axis() {
    let mut d = Draft::new(17);
    let (x, y) = (d.input("x", &["N", "3"]), d.input("y", &["N", "4"]));
    let z = d.node("Concat", &[x, y], Attrs::new().with("axis", 1));
    let found = classes(&d.model, &infer(&d.model, &Bindings::new()));
    let sizes: Vec<_> = found.along(&GraphPath::main(), z, 1).map(|c| c.size.known()).collect();
    assert_eq!(sizes, [Some(3), Some(4)]);
}
