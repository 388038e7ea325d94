//! Range.
//!
//! Opsets: 11, 27.
//!
//! Shape rule: a vector with `max(0, ceil((limit - start) / delta))` elements.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, MAX_ELEMENTS, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Range", &[sig(11, 3, 3)], Traits::ROUNDING, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let single = |slot: usize| match call.elements(slot) {
        Some([n]) => n.clone(),
        _ => Num::Unknown,
    };
    let (start, limit, delta) = (single(0), single(1), single(2));
    let size = match (&start, &limit, &delta) {
        (_, _, Num::Int(0)) => return Err("delta is 0".into()),
        (Num::Int(a), Num::Int(b), Num::Int(d)) => count(*a, *b, *d).map_or(Dim::Unknown, Dim::Known),
        (Num::Float(_), Num::Float(_), Num::Float(d)) => {
            // Runtimes subtract in the element type and divide in double precision.
            let span = call.dtype(0).map_or(Num::Unknown, |t| limit.sub(&start).fit(t));
            match span.float().map(|s| (s / d).ceil()) {
                Some(n) if n < 2f64.powi(32) => Dim::Known(n.max(0.0) as u64),
                _ => Dim::Unknown,
            }
        }
        // The span over delta, rounded up, in which a size that became a float occurs.
        (Num::Float(_), Num::Quotient(..), Num::Float(d)) if *d > 0.0 => {
            let count = limit.sub(&start).div(&delta).round(true).cast(DType::I64);
            steps(&count, 1)
        }
        (_, _, Num::Int(d)) if *d > 0 => steps(&limit.sub(&start), *d),
        (_, _, Num::Int(d)) => d.checked_neg().map_or(Dim::Unknown, |d| steps(&start.sub(&limit), d)),
        _ => Dim::Unknown,
    };
    let elements = match (&start, &delta, size.known()) {
        (Num::Int(a), Num::Int(d), Some(n)) if n <= MAX_ELEMENTS => {
            let at = |i: i64| d.checked_mul(i).and_then(|o| a.checked_add(o)).map_or(Num::Unknown, Num::Int);
            Some((0..n as i64).map(at).collect::<Vec<_>>())
        }
        _ => None,
    };
    Ok(vec![call.like(0, Some(vec![size])).with(elements)])
}

/// Number of steps that a span takes which may be an expression. Named sizes are taken to be large enough that it is not
/// negative; a size that data decides may be anything.
fn steps(span: &Num, step: i64) -> Dim {
    match span {
        Num::Int(n) => count(0, *n, step).map_or(Dim::Unknown, Dim::Known),
        Num::Symbolic(d) if !d.is_open() || span.at_least(&Num::Int(0)) => {
            d.offset(step - 1).floor_div(step.unsigned_abs())
        }
        _ => Dim::Unknown,
    }
}

/// Number of steps from `a` to `b`; `None` if it overflows.
fn count(a: i64, b: i64, step: i64) -> Option<u64> {
    let span = if step > 0 { b.checked_sub(a)? } else { a.checked_sub(b)? };
    Some(u64::try_from(span).map_or(0, |s| s.div_ceil(step.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use crate::{Attrs, Tensor, infer::testing::Draft};

    #[test]
    fn sizes_are_counted_with_steps_and_as_floats() {
        let mut d = Draft::new(17);
        let x = d.input("x", &["N"]);
        let n = d.node("Size", &[x], Attrs::new());
        let [zero, two, down] = [0, 2, -1].map(|v| d.int(v));
        let y = d.node("Range", &[zero, n, two], Attrs::new());
        assert_eq!(d.ty(y), "int64[floor((N + 1)/2)]");
        let y = d.node("Range", &[n, zero, down], Attrs::new());
        assert_eq!(d.ty(y), "int64[N]");
        let n = d.node("Cast", &[n], Attrs::new().with("to", 1));
        let [zero, half] = [0.0, 0.5].map(|v| d.constant(Tensor::scalar_f32(v)));
        let y = d.node("Range", &[zero, n, half], Attrs::new());
        assert_eq!(d.ty(y), "float[2*N]");
    }

    #[test]
    fn a_size_that_data_decides_may_be_less_than_the_start() {
        let mut d = Draft::new(17);
        let x = d.input("x", &["N"]);
        let places = d.node("NonZero", &[x], Attrs::new());
        let n = d.node("Size", &[places], Attrs::new());
        let [zero, one, three] = [0, 1, 3].map(|v| d.int(v));
        let y = d.node("Range", &[zero, n, one], Attrs::new());
        let late = d.node("Range", &[three, n, one], Attrs::new());
        let inferred = crate::infer::infer(&d.model, &crate::infer::Bindings::new());
        assert!(inferred.shape(y).unwrap()[0].same(&inferred.shape(places).unwrap()[1]));
        assert_ne!(inferred.shape(late).unwrap()[0], inferred.shape(y).unwrap()[0].offset(-3));
    }
}
