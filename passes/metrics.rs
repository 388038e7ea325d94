//! Two runs of a model, compared.
//!
//! [`Comparison`] accumulates over any number of pairs of tensors, in one pass over each and in f64. [`Tolerance`]
//! turns it into a verdict: what a rewrite may do to the outputs depends on what it declares ([`Numerics`]).

use half::{bf16, f16};
use planish_ir::{DType, Numerics, Tensor};

/// Tensors that cannot be compared element by element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Different element types.
    #[error("the reference holds {reference}, the other {actual}")]
    Type {
        /// Of the reference.
        reference: DType,
        /// Of the other.
        actual: DType,
    },
    /// Different shapes.
    #[error("the reference has the shape {reference:?}, the other {actual:?}")]
    Shape {
        /// Of the reference.
        reference: Vec<u64>,
        /// Of the other.
        actual: Vec<u64>,
    },
}

/// How the outputs of two models differ, over all pairs given to [`Comparison::add`].
#[derive(Debug, Clone)]
pub struct Comparison {
    pairs: u64,
    elements: u64,
    identical: bool,
    max_abs: f64,
    max_reference: f64,
    beyond_rounding: u64,
    non_finite: u64,
    unlike: u64,
    dot: f64,
    reference_square: f64,
    actual_square: f64,
    error_square: f64,
    top1_agree: u64,
    top1_total: u64,
    min_cosine: f64,
}

/// The rounding that reordered float arithmetic may cause: relative to the element, and to the largest element of the
/// tensor, because sums of large terms that cancel carry the error of the terms.
const ROUNDING_RELATIVE: f64 = 1e-4;
const ROUNDING_OF_MAX: f64 = 1e-5;
/// Two units in the last place of a single-precision 1. Runtimes compute functions that saturate (sigmoid, tanh,
/// softmax) to that absolute precision, so where all outputs are tiny the relative bounds ask for more than there is.
const ROUNDING_ABSOLUTE: f64 = 1.0 / (1 << 22) as f64;

impl Default for Comparison {
    fn default() -> Comparison {
        Comparison {
            pairs: 0,
            elements: 0,
            identical: true,
            max_abs: 0.0,
            max_reference: 0.0,
            beyond_rounding: 0,
            non_finite: 0,
            unlike: 0,
            dot: 0.0,
            reference_square: 0.0,
            actual_square: 0.0,
            error_square: 0.0,
            top1_agree: 0,
            top1_total: 0,
            min_cosine: 1.0,
        }
    }
}

impl Comparison {
    /// Nothing compared yet.
    pub fn new() -> Comparison {
        Comparison::default()
    }

    /// One pair compared.
    pub fn of(reference: &Tensor, actual: &Tensor) -> Result<Comparison, Mismatch> {
        let mut c = Comparison::new();
        c.add(reference, actual)?;
        Ok(c)
    }

    /// Takes in one more pair. Fails, without taking it in, if types or shapes differ.
    pub fn add(&mut self, reference: &Tensor, actual: &Tensor) -> Result<(), Mismatch> {
        if reference.dtype() != actual.dtype() {
            return Err(Mismatch::Type { reference: reference.dtype(), actual: actual.dtype() });
        }
        if reference.dims() != actual.dims() {
            return Err(Mismatch::Shape { reference: reference.dims().to_vec(), actual: actual.dims().to_vec() });
        }
        self.pairs += 1;
        self.elements += reference.elements();
        self.identical &= reference == actual;
        let (Some(r), Some(a)) = (values(reference), values(actual)) else {
            // Strings and packed types have no arithmetic: they are equal, or not even close.
            if reference != actual {
                self.beyond_rounding += reference.elements();
                self.unlike += 1;
            }
            return Ok(());
        };
        let max =
            values(reference).into_iter().flatten().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        let allowed = |r: f64| match reference.dtype().is_float() {
            true => ROUNDING_RELATIVE * r.abs() + ROUNDING_OF_MAX * max + ROUNDING_ABSOLUTE,
            false => 0.0,
        };
        let (mut dot, mut rr, mut aa) = (0.0, 0.0, 0.0);
        for (r, a) in r.zip(a) {
            if !r.is_finite() || !a.is_finite() {
                if r != a && !(r.is_nan() && a.is_nan()) {
                    self.non_finite += 1;
                    self.beyond_rounding += 1;
                }
                continue;
            }
            let error = (r - a).abs();
            self.max_abs = self.max_abs.max(error);
            self.error_square += error * error;
            self.beyond_rounding += u64::from(error > allowed(r));
            dot += r * a;
            rr += r * r;
            aa += a * a;
        }
        self.max_reference = self.max_reference.max(max);
        self.dot += dot;
        self.reference_square += rr;
        self.actual_square += aa;
        self.min_cosine = self.min_cosine.min(cosine(dot, rr, aa));
        self.top1(reference, actual);
        Ok(())
    }

    /// Rows along the last axis whose largest element is at the same place. Any of several equal ones will do.
    fn top1(&mut self, reference: &Tensor, actual: &Tensor) {
        let Some(width) = reference.dims().last().and_then(|&w| usize::try_from(w).ok()).filter(|&w| w > 1) else {
            return;
        };
        if !reference.dtype().is_float() {
            return;
        }
        let (Some(r), Some(a)) = (values(reference), values(actual)) else { return };
        let mut rows = (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY);
        for (i, (r, a)) in r.zip(a).enumerate() {
            let (best, best_actual, at_best_actual) = &mut rows;
            *best = best.max(r);
            if a > *best_actual {
                (*best_actual, *at_best_actual) = (a, r);
            }
            if (i + 1) % width == 0 {
                self.top1_total += 1;
                self.top1_agree += u64::from(at_best_actual == best);
                rows = (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY);
            }
        }
    }

    /// Number of elements compared.
    pub const fn elements(&self) -> u64 {
        self.elements
    }

    /// True if every element has the same bits (so a NaN equals itself, and `-0.0` differs from `0.0`).
    pub const fn identical(&self) -> bool {
        self.identical
    }

    /// Largest absolute difference of finite elements.
    pub const fn max_abs(&self) -> f64 {
        self.max_abs
    }

    /// Largest absolute difference, as a share of the largest magnitude of the reference.
    pub fn max_relative(&self) -> f64 {
        match self.max_abs == 0.0 {
            true => 0.0,
            false => self.max_abs / self.max_reference,
        }
    }

    /// Cosine of the angle between all finite elements of both, taken as two vectors; 1 if both are zero.
    pub fn cosine(&self) -> f64 {
        cosine(self.dot, self.reference_square, self.actual_square)
    }

    /// The smallest cosine of any single pair.
    pub const fn min_cosine(&self) -> f64 {
        self.min_cosine
    }

    /// Power of the reference over power of the difference, in dB; infinite if there is no difference.
    pub fn sqnr_db(&self) -> f64 {
        match self.error_square == 0.0 {
            true => f64::INFINITY,
            false => 10.0 * (self.reference_square / self.error_square).log10(),
        }
    }

    /// Share of rows along the last axis whose largest element is at the same place; `None` for what has no such rows
    /// (integers, scalars, a last axis of one element).
    pub fn top1_agreement(&self) -> Option<f64> {
        (self.top1_total > 0).then(|| self.top1_agree as f64 / self.top1_total as f64)
    }

    /// Elements that are NaN or infinite in one and not the same in the other.
    pub const fn non_finite_mismatches(&self) -> u64 {
        self.non_finite
    }

    /// Elements that differ by more than the rounding of reordered float arithmetic: 1e-4 of the element plus 1e-5 of
    /// the largest one plus 2.4e-7. Integers and bools may not differ at all.
    pub const fn beyond_rounding(&self) -> u64 {
        self.beyond_rounding
    }
}

/// What a comparison must show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// The same bits. Engines are deterministic, so nothing less is expected of an exact rewrite.
    Exact,
    /// Nothing beyond the rounding of reordered float arithmetic; see [`Comparison::beyond_rounding`].
    Reassociated,
    /// Close by the user's measure.
    Lossy {
        /// Smallest [`Comparison::cosine`].
        min_cosine: f64,
        /// Smallest [`Comparison::top1_agreement`], where there is one.
        min_top1: Option<f64>,
    },
}

impl Tolerance {
    /// What a rewrite of this class owes. `lossy` is for those that promise no equality.
    pub fn of(numerics: Numerics, lossy: Tolerance) -> Tolerance {
        match numerics {
            Numerics::Exact => Tolerance::Exact,
            Numerics::Reassociated => Tolerance::Reassociated,
            Numerics::Lossy => lossy,
        }
    }

    /// Fails with the reason if the comparison does not show it. Nothing compared shows nothing, and fails.
    pub fn check(self, c: &Comparison) -> Result<(), String> {
        if c.pairs == 0 {
            return Err("nothing was compared".to_owned());
        }
        match self {
            Tolerance::Exact if !c.identical => {
                Err(format!("not bit-identical: the largest difference is {:.3e}{}", c.max_abs, non_finite(c)))
            }
            Tolerance::Reassociated if c.beyond_rounding > 0 => Err(format!(
                "{} of {} elements differ by more than rounding: the largest difference is {:.3e}, {:.3e} of the largest \
                 element{}",
                c.beyond_rounding,
                c.elements,
                c.max_abs,
                c.max_relative(),
                non_finite(c)
            )),
            Tolerance::Lossy { .. } if c.non_finite > 0 => Err(non_finite(c).trim_start_matches(", ").to_owned()),
            Tolerance::Lossy { .. } if c.unlike > 0 => Err(format!(
                "{} of {} outputs differ, and their type has no arithmetic by which they could be close",
                c.unlike, c.pairs
            )),
            Tolerance::Lossy { min_cosine, .. } if c.cosine().is_nan() || c.cosine() < min_cosine => {
                Err(format!("the cosine is {:.6}, below {min_cosine}", c.cosine()))
            }
            Tolerance::Lossy { min_top1: Some(least), .. } if c.top1_agreement().is_some_and(|t| t < least) => {
                Err(format!("the top-1 agreement is {:.4}, below {least}", c.top1_agreement().unwrap_or(0.0)))
            }
            Tolerance::Exact | Tolerance::Reassociated | Tolerance::Lossy { .. } => Ok(()),
        }
    }
}

fn non_finite(c: &Comparison) -> String {
    match c.non_finite {
        0 => String::new(),
        n => format!(", {n} elements are NaN or infinite in one of the two"),
    }
}

fn cosine(dot: f64, rr: f64, aa: f64) -> f64 {
    if rr == 0.0 && aa == 0.0 {
        return 1.0;
    }
    if rr == 0.0 || aa == 0.0 {
        return 0.0;
    }
    (dot / (rr.sqrt() * aa.sqrt())).clamp(-1.0, 1.0)
}

/// The elements as f64; `None` for types without a plain number per element. Integers above 2^53 are rounded.
fn values(t: &Tensor) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
    let b: &[u8] = t.raw()?;
    Some(match t.dtype() {
        DType::F32 => each(b, |c| f64::from(f32::from_le_bytes(c))),
        DType::F64 => each(b, f64::from_le_bytes),
        DType::F16 => each(b, |c| f16::from_le_bytes(c).to_f64()),
        DType::BF16 => each(b, |c| bf16::from_le_bytes(c).to_f64()),
        DType::I8 => each(b, |c| f64::from(i8::from_le_bytes(c))),
        DType::I16 => each(b, |c| f64::from(i16::from_le_bytes(c))),
        DType::I32 => each(b, |c| f64::from(i32::from_le_bytes(c))),
        DType::I64 => each(b, |c| i64::from_le_bytes(c) as f64),
        DType::U8 | DType::Bool => each(b, |c: [u8; 1]| f64::from(c[0])),
        DType::U16 => each(b, |c| f64::from(u16::from_le_bytes(c))),
        DType::U32 => each(b, |c| f64::from(u32::from_le_bytes(c))),
        DType::U64 => each(b, |c| u64::from_le_bytes(c) as f64),
        _ => return None,
    })
}

fn each<'a, const N: usize>(bytes: &'a [u8], f: impl Fn([u8; N]) -> f64 + 'a) -> Box<dyn Iterator<Item = f64> + 'a> {
    Box::new(bytes.as_chunks::<N>().0.iter().map(move |&c| f(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSY: Tolerance = Tolerance::Lossy { min_cosine: 0.99, min_top1: Some(1.0) };

    fn sine(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect()
    }

    fn compare(reference: &[f32], actual: &[f32]) -> Comparison {
        let t = |v: &[f32]| Tensor::from_f32([v.len() as u64].as_slice(), v).unwrap();
        Comparison::of(&t(reference), &t(actual)).unwrap()
    }

    #[test]
    fn equal_passes_everything() {
        let c = compare(&sine(100), &sine(100));
        for t in [Tolerance::Exact, Tolerance::Reassociated, LOSSY] {
            t.check(&c).unwrap();
        }
        assert_eq!((c.max_relative(), c.sqnr_db()), (0.0, f64::INFINITY));
    }

    #[test]
    fn rounding_passes_all_but_exact() {
        let moved: Vec<f32> = sine(100).iter().map(|v| v * (1.0 + 1e-6)).collect();
        let c = compare(&sine(100), &moved);
        assert!(Tolerance::Exact.check(&c).unwrap_err().starts_with("not bit-identical"));
        Tolerance::Reassociated.check(&c).unwrap();
    }

    #[test]
    fn a_weight_scaled_by_one_percent_is_found() {
        let scaled: Vec<f32> = sine(100).iter().map(|v| v * 1.01).collect();
        let c = compare(&sine(100), &scaled);
        assert!(Tolerance::Reassociated.check(&c).is_err());
        LOSSY.check(&c).unwrap();
        assert!((c.sqnr_db() - 40.0).abs() < 0.01 && (c.max_relative() - 0.01).abs() < 1e-6);
    }

    #[test]
    fn one_wrong_element_is_found() {
        let mut wrong = sine(1000);
        wrong[500] += 1e-3;
        let c = compare(&sine(1000), &wrong);
        assert_eq!(c.beyond_rounding(), 1);
        assert!(Tolerance::Reassociated.check(&c).is_err());
    }

    #[test]
    fn nan_in_one_is_found_by_all() {
        let mut wrong = sine(100);
        wrong[3] = f32::NAN;
        let c = compare(&sine(100), &wrong);
        for t in [Tolerance::Exact, Tolerance::Reassociated, LOSSY] {
            assert!(t.check(&c).unwrap_err().contains("NaN"), "{t:?}");
        }
        let both = compare(&wrong, &wrong);
        Tolerance::Exact.check(&both).unwrap();
        Tolerance::Reassociated.check(&both).unwrap();
    }

    #[test]
    fn a_different_winner_is_found() {
        let c = compare(&[0.0, 1.0, 0.999], &[0.0, 0.999, 1.0]);
        assert!(c.cosine() > 0.99);
        assert!(LOSSY.check(&c).unwrap_err().contains("top-1"));
    }

    #[test]
    fn shape_and_type_must_agree() {
        let f = Tensor::from_f32([2].as_slice(), &[0.0, 1.0]).unwrap();
        let wide = Tensor::from_f32([1, 2].as_slice(), &[0.0, 1.0]).unwrap();
        let i = Tensor::from_i64([2].as_slice(), &[0, 1]).unwrap();
        assert!(matches!(Comparison::of(&f, &wide), Err(Mismatch::Shape { .. })));
        assert!(matches!(Comparison::of(&f, &i), Err(Mismatch::Type { .. })));
        let j = Tensor::from_i64([2].as_slice(), &[0, 2]).unwrap();
        assert!(Tolerance::Reassociated.check(&Comparison::of(&i, &j).unwrap()).is_err());
    }

    #[test]
    fn types_without_arithmetic_are_equal_or_fail() {
        let t = |bytes: &'static [u8]| {
            Tensor::from_raw(DType::I4, [4].as_slice(), bytes::Bytes::from_static(bytes)).unwrap()
        };
        let (one, two) = (t(&[0x21, 0x43]), t(&[0x21, 0x44]));
        LOSSY.check(&Comparison::of(&one, &one).unwrap()).unwrap();
        assert!(LOSSY.check(&Comparison::of(&one, &two).unwrap()).unwrap_err().contains("no arithmetic"));
    }

    #[test]
    fn zero_against_something_is_no_agreement() {
        let c = compare(&[1.0, 2.0], &[0.0, 0.0]);
        assert_eq!(c.cosine(), 0.0);
        assert!(LOSSY.check(&c).is_err());
        assert!(LOSSY.check(&Comparison::new()).is_err());
    }
}
