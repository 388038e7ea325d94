//! NonZero.
//!
//! Opsets: 9, 13.
//!
//! Shape rule: int64; one row per axis of the input, one column per element that is not zero, however many unless the elements are known.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("NonZero", &[sig(9, 1, 1)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let rows = match call.shape(0) {
        // Runtimes differ on scalars.
        None | Some([]) => Dim::Unknown,
        Some(s) => Dim::Known(s.len() as u64),
    };
    // Of elements that are known, no more than a vector of the places is.
    let places = call.elements(0).and_then(|e| e.iter().map(is_zero).collect::<Option<Vec<_>>>()).map(|zero| {
        let kept = zero.iter().enumerate().filter(|(_, zero)| !**zero).map(|(i, _)| Num::Int(i as i64));
        kept.collect::<Vec<_>>()
    });
    let columns = places.as_ref().map_or(Dim::Unknown, |p| Dim::Known(p.len() as u64));
    let elements = places.filter(|_| call.shape(0).is_some_and(|s| s.len() == 1));
    Ok(vec![Fact::tensor(Some(DType::I64), Some(vec![rows, columns])).with(elements)])
}

fn is_zero(n: &Num) -> Option<bool> {
    match n {
        Num::Int(n) => Some(*n == 0),
        Num::Float(x) => Some(*x == 0.0),
        Num::Symbolic(_) | Num::Quotient(..) | Num::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Attrs, infer::testing::Draft};

    #[test]
    fn places_of_known_elements_are_known() {
        let mut d = Draft::new(17);
        let c = d.ints(&[0, 3, 0, 5]);
        let places = d.node("NonZero", &[c], Attrs::new());
        assert_eq!(d.ty(places), "int64[1,2]");
        let (flat, x) = (d.ints(&[-1]), d.input("x", &["1", "1", "1", "1", "1", "1"]));
        let target = d.node("Reshape", &[places, flat], Attrs::new());
        let y = d.node("Expand", &[x, target], Attrs::new());
        assert_eq!(d.ty(y), "float[1,1,1,1,1,3]");
    }

    #[test]
    fn what_is_found_in_data_has_one_size_wherever_it_is_read() {
        let mut d = Draft::new(17);
        let x = d.input("x", &["N", "4"]);
        let places = d.node("NonZero", &[x], Attrs::new());
        let turned = d.node("Transpose", &[places], Attrs::new());
        let y = d.node("Neg", &[turned], Attrs::new());
        let sum = d.node("Add", &[turned, y], Attrs::new());
        assert_eq!(d.ty(sum), "int64[?,2]");
        let known = crate::infer::infer(&d.model, &crate::infer::Bindings::new());
        let found = &known.shape(places).unwrap()[1];
        assert!(found.is_open() && known.shape(sum).unwrap()[0].same(found));
        let other = d.node("NonZero", &[x], Attrs::new());
        let known = crate::infer::infer(&d.model, &crate::infer::Bindings::new());
        assert!(!known.shape(other).unwrap()[1].same(found));
    }
}
