//! One element of a small tensor, as far as it is known, and arithmetic on it.
//!
//! Shapes are computed by the graph itself (`Shape`, `Gather`, `Mul`, `Concat`, …), so following such numbers, with
//! names of sizes in them, is what gives dynamic models their shapes. Every operation is total: what leaves the range
//! or cannot be expressed is [`Num::Unknown`].

use std::cmp::Ordering;

use half::{bf16, f16};

use crate::{DType, Dim};

/// A number in a small tensor. Booleans are 0 and 1.
#[derive(Clone, PartialEq, Debug)]
pub enum Num {
    /// An integer.
    Int(i64),
    /// A floating point number, rounded to the tensor's type.
    Float(f64),
    /// An integer that depends on named sizes; always [`Dim::Symbolic`].
    Symbolic(Dim),
    /// A floating point number that depends on named sizes: such an integer over a positive one. Sizes are taken to be less
    /// than 2^24, which single precision holds exactly, and only what rounding cannot change is followed.
    Quotient(Dim, u64),
    /// Not known.
    Unknown,
}

impl Num {
    /// The number that the size of an axis is.
    pub fn from_dim(dim: &Dim) -> Num {
        match (dim.signed(), dim) {
            (Some(n), _) => Num::Int(n),
            (None, Dim::Symbolic(_)) => Num::Symbolic(dim.clone()),
            (None, Dim::Known(_) | Dim::Unknown) => Num::Unknown,
        }
    }

    /// 1 or 0.
    pub fn from_bool(b: bool) -> Num {
        Num::Int(i64::from(b))
    }

    /// The integer, if it is one.
    pub const fn int(&self) -> Option<i64> {
        match self {
            Num::Int(n) => Some(*n),
            Num::Float(_) | Num::Symbolic(_) | Num::Quotient(..) | Num::Unknown => None,
        }
    }

    /// The number as a float, if it is no expression.
    pub const fn float(&self) -> Option<f64> {
        match self {
            Num::Float(x) => Some(*x),
            Num::Int(n) => Some(*n as f64),
            Num::Symbolic(_) | Num::Quotient(..) | Num::Unknown => None,
        }
    }

    /// The axis of this size; unknown for negative numbers and floats.
    pub fn dim(&self) -> Dim {
        match self {
            Num::Int(n) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Known),
            Num::Symbolic(d) => d.clone(),
            Num::Float(_) | Num::Quotient(..) | Num::Unknown => Dim::Unknown,
        }
    }

    /// True if both are provably the same.
    pub fn same(&self, other: &Num) -> bool {
        !matches!(self, Num::Unknown) && self == other
    }

    /// Sum.
    pub fn add(&self, other: &Num) -> Num {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => a.checked_add(*b).map_or(Num::Unknown, Num::Int),
            (Num::Float(a), Num::Float(b)) => Num::Float(a + b),
            (Num::Quotient(a, k), b) => b.quotient().map_or(Num::Unknown, |(b, l)| {
                let sum = a.mul_signed(&Dim::Known(l)).add(&b.mul_signed(&Dim::Known(*k)));
                Num::from_quotient(sum, k.checked_mul(l))
            }),
            (Num::Float(_), Num::Quotient(..)) => other.add(self),
            _ => Num::from_dim(&self.signed().add(&other.signed())),
        }
    }

    /// Difference.
    pub fn sub(&self, other: &Num) -> Num {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => a.checked_sub(*b).map_or(Num::Unknown, Num::Int),
            (Num::Float(a), Num::Float(b)) => Num::Float(a - b),
            _ => self.add(&other.neg()),
        }
    }

    /// Product.
    pub fn mul(&self, other: &Num) -> Num {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => a.checked_mul(*b).map_or(Num::Unknown, Num::Int),
            (Num::Float(a), Num::Float(b)) => Num::Float(a * b),
            // What was divided by anything else is rounded already.
            (Num::Quotient(a, k), Num::Float(_)) if k.is_power_of_two() => {
                other.quotient().map_or(Num::Unknown, |(b, l)| Num::from_quotient(a.mul_signed(&b), k.checked_mul(l)))
            }
            (Num::Float(_), Num::Quotient(..)) => other.mul(self),
            _ => Num::from_dim(&self.signed().mul_signed(&other.signed())),
        }
    }

    /// Quotient as ONNX's `Div` forms it: truncated for integers, which is rounded down where nothing is negative.
    pub fn div(&self, other: &Num) -> Num {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => a.checked_div(*b).map_or(Num::Unknown, Num::Int),
            (Num::Float(a), Num::Float(b)) => Num::Float(a / b),
            (Num::Quotient(a, k), Num::Float(b)) if k.is_power_of_two() => match other.quotient() {
                Some((Dim::Known(b), l)) if b > 0 => Num::from_quotient(a.mul_signed(&Dim::Known(l)), k.checked_mul(b)),
                _ if *b == 1.0 => self.clone(),
                _ => Num::Unknown,
            },
            (Num::Symbolic(a), Num::Int(b)) if *b > 0 && a.lower_bound().is_some_and(|l| l >= 0) => {
                Num::from_dim(&a.floor_div(b.unsigned_abs()))
            }
            _ => self.signed().div_exact(&other.signed()).map_or(Num::Unknown, |q| Num::from_dim(&q)),
        }
    }

    /// Remainder with the sign of the divisor, as `Mod` forms it for integers.
    pub fn modulo(&self, other: &Num) -> Num {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => {
                let Some(r) = a.checked_rem(*b) else { return Num::Unknown };
                Num::Int(if r != 0 && (r < 0) != (*b < 0) { r + b } else { r })
            }
            (Num::Symbolic(a), _) if a.div_exact(&other.signed()).is_some() => Num::Int(0),
            (Num::Symbolic(a), Num::Int(b)) if *b > 0 && self.at_least(&Num::Int(0)) => {
                self.sub(&Num::from_dim(&a.floor_div(b.unsigned_abs())).mul(other))
            }
            _ => Num::Unknown,
        }
    }

    /// The same with the other sign.
    pub fn neg(&self) -> Num {
        match self {
            Num::Float(x) => Num::Float(-x),
            Num::Quotient(a, k) => Num::from_quotient(a.mul_signed(&Dim::from_i64(-1)), Some(*k)),
            _ => Num::Int(-1).mul(self),
        }
    }

    /// Absolute value.
    pub fn abs(&self) -> Num {
        match self {
            Num::Int(n) => n.checked_abs().map_or(Num::Unknown, Num::Int),
            Num::Float(x) => Num::Float(x.abs()),
            Num::Symbolic(d) | Num::Quotient(d, _) if d.lower_bound().is_some_and(|b| b >= 0) => self.clone(),
            Num::Symbolic(_) | Num::Quotient(..) | Num::Unknown => Num::Unknown,
        }
    }

    /// How the two compare, if that is provable. Named sizes are zero or more.
    pub fn compare(&self, other: &Num) -> Option<Ordering> {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => Some(a.cmp(b)),
            (Num::Float(a), Num::Float(b)) => a.partial_cmp(b),
            _ if self.same(other) => Some(Ordering::Equal),
            _ if self.sub(other).lower_bound().is_some_and(|b| b > 0) => Some(Ordering::Greater),
            _ if other.sub(self).lower_bound().is_some_and(|b| b > 0) => Some(Ordering::Less),
            _ => None,
        }
    }

    /// True if this is provably at least `other`.
    pub fn at_least(&self, other: &Num) -> bool {
        match (self, other) {
            (Num::Float(a), Num::Float(b)) => a >= b,
            _ => self.sub(other).lower_bound().is_some_and(|b| b >= 0),
        }
    }

    /// The larger one.
    pub fn max(&self, other: &Num) -> Num {
        match (self.at_least(other), other.at_least(self)) {
            (true, _) => self.clone(),
            (false, true) => other.clone(),
            (false, false) => self.sizes(other).map_or(Num::Unknown, |(a, b)| Num::from_dim(&a.larger(&b))),
        }
    }

    /// The smaller one.
    pub fn min(&self, other: &Num) -> Num {
        match (self.at_least(other), other.at_least(self)) {
            (true, _) => other.clone(),
            (false, true) => self.clone(),
            (false, false) => self.sizes(other).map_or(Num::Unknown, |(a, b)| Num::from_dim(&a.smaller(&b))),
        }
    }

    /// The next integer below, or above.
    #[must_use]
    pub fn round(&self, up: bool) -> Num {
        match self {
            Num::Float(x) => Num::Float(if up { x.ceil() } else { x.floor() }),
            Num::Quotient(d, k) => {
                let d = if up {
                    i64::try_from(k - 1).map_or(Dim::Unknown, |k| d.add(&Dim::from_i64(k)))
                } else {
                    d.clone()
                };
                Num::from_quotient(d.floor_div(*k), Some(1))
            }
            Num::Int(_) | Num::Symbolic(_) | Num::Unknown => self.clone(),
        }
    }

    /// The number as an element of another type; unknown where it does not fit, and for expressions that become floats.
    pub fn cast(&self, to: DType) -> Num {
        match self {
            Num::Unknown => Num::Unknown,
            _ if to == DType::Bool => match self.compare(&self.zero()) {
                Some(ordering) => Num::from_bool(ordering != Ordering::Equal),
                None => Num::Unknown,
            },
            Num::Float(x) if to.is_integer() => {
                // 2^63 itself is the first float that does not fit.
                let t = x.trunc();
                if t >= -(2f64.powi(63)) && t < 2f64.powi(63) { Num::Int(t as i64).fit(to) } else { Num::Unknown }
            }
            Num::Int(n) if to.is_float() => {
                // Not by way of f64, which would round twice.
                if to == DType::F32 { Num::Float(f64::from(*n as f32)) } else { Num::Float(*n as f64).fit(to) }
            }
            Num::Symbolic(d) if to.is_float() => Num::Quotient(d.clone(), 1).fit(to),
            // Truncated, which is rounded down where nothing is negative.
            Num::Quotient(d, k) if to.is_integer() => match d.lower_bound() {
                Some(0..) => Num::from_dim(&d.floor_div(*k)).fit(to),
                _ if *k == 1 => Num::from_dim(d).fit(to),
                _ => Num::Unknown,
            },
            _ => self.clone().fit(to),
        }
    }

    /// The number as the element type can hold it: floats are rounded, integers that do not fit are unknown.
    #[must_use]
    pub fn fit(self, dtype: DType) -> Num {
        let range = match dtype {
            DType::I64 => return self,
            DType::F32 | DType::F64 if matches!(self, Num::Quotient(..)) => return self,
            DType::F32 => {
                return self.float().map_or(Num::Unknown, |x| Num::Float(f64::from(x as f32)));
            }
            DType::F64 => return self.float().map_or(Num::Unknown, Num::Float),
            DType::F16 => return self.float().map_or(Num::Unknown, |x| Num::Float(f16::from_f64(x).to_f64())),
            DType::BF16 => return self.float().map_or(Num::Unknown, |x| Num::Float(bf16::from_f64(x).to_f64())),
            DType::I32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
            DType::I16 => i64::from(i16::MIN)..=i64::from(i16::MAX),
            DType::I8 => i64::from(i8::MIN)..=i64::from(i8::MAX),
            DType::U64 => 0..=i64::MAX,
            DType::U32 => 0..=i64::from(u32::MAX),
            DType::U16 => 0..=i64::from(u16::MAX),
            DType::U8 => 0..=i64::from(u8::MAX),
            DType::Bool => 0..=1,
            _ => return Num::Unknown,
        };
        match self {
            Num::Int(n) if range.contains(&n) => Num::Int(n),
            // Sizes of tensors fit every type that a model computes shapes in.
            Num::Symbolic(d) if matches!(dtype, DType::I32 | DType::U32 | DType::U64) => Num::Symbolic(d),
            _ => Num::Unknown,
        }
    }

    fn zero(&self) -> Num {
        match self {
            Num::Float(_) | Num::Quotient(..) => Num::Float(0.0),
            Num::Int(_) | Num::Symbolic(_) | Num::Unknown => Num::Int(0),
        }
    }

    /// A bound whose sign is that of a bound of the number.
    fn lower_bound(&self) -> Option<i64> {
        match self {
            Num::Int(n) => Some(*n),
            Num::Symbolic(d) | Num::Quotient(d, _) => d.lower_bound(),
            Num::Float(_) | Num::Unknown => None,
        }
    }

    /// The number as an expression over a positive integer, where that is exact.
    fn quotient(&self) -> Option<(Dim, u64)> {
        match self {
            Num::Quotient(d, k) => Some((d.clone(), *k)),
            // Small enough for products with sizes to be exact.
            Num::Float(x) if x.abs() < 1024.0 && (x * 1024.0).fract() == 0.0 => {
                let k = (0..=10).map(|i| 1u64 << i).find(|&k| (x * k as f64).fract() == 0.0)?;
                Some((Dim::from_i64((x * k as f64) as i64), k))
            }
            Num::Float(_) | Num::Int(_) | Num::Symbolic(_) | Num::Unknown => None,
        }
    }

    fn from_quotient(d: Dim, k: Option<u64>) -> Num {
        match (d.signed(), k) {
            (Some(n), Some(k)) if k.is_power_of_two() && n.unsigned_abs() < 1 << 24 => Num::Float(n as f64 / k as f64),
            (None, Some(k)) if matches!(d, Dim::Symbolic(_)) => Num::Quotient(d, k),
            _ => Num::Unknown,
        }
    }

    /// Both as sizes, if they are none that may be negative.
    fn sizes(&self, other: &Num) -> Option<(Dim, Dim)> {
        let size = |n: &Num| (!matches!(n, Num::Quotient(..)) && n.lower_bound()? >= 0).then(|| n.signed());
        Some((size(self)?, size(other)?))
    }

    fn signed(&self) -> Dim {
        match self {
            Num::Int(n) => Dim::from_i64(*n),
            Num::Symbolic(d) => d.clone(),
            Num::Float(_) | Num::Quotient(..) | Num::Unknown => Dim::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(name: &str) -> Num {
        Num::from_dim(&Dim::symbol(name))
    }

    #[test]
    fn expressions_may_be_negative_on_the_way() {
        let a = n("N").sub(&Num::Int(3));
        assert_eq!(a.add(&Num::Int(3)), n("N"));
        assert_eq!(n("N").sub(&n("N")).sub(&Num::Int(1)), Num::Int(-1));
        assert_eq!(n("N").mul(&Num::Int(6)).div(&Num::Int(3)), n("N").mul(&Num::Int(2)));
        assert_eq!(n("N").sub(&Num::Int(3)).div(&Num::Int(2)), Num::Unknown);
        assert_eq!(n("N").div(&n("M")), Num::Unknown);
    }

    #[test]
    fn comparisons_say_only_what_is_provable() {
        assert_eq!(n("N").compare(&Num::Int(-1)), Some(Ordering::Greater));
        assert_eq!(Num::Int(-1).compare(&n("N")), Some(Ordering::Less));
        assert_eq!(n("N").compare(&Num::Int(0)), None);
        assert_eq!(n("N").add(&n("M")).max(&n("M")), n("N").add(&n("M")));
        assert_eq!(n("N").max(&n("M")), Num::Symbolic(Dim::symbol("max(M, N)")));
        assert_eq!(n("N").min(&n("M")), n("M").min(&n("N")));
        assert_eq!(n("N").sub(&Num::Int(1)).min(&n("M")), Num::Unknown);
    }

    #[test]
    fn remainders_are_what_a_quotient_leaves() {
        let twice = n("N").mul(&Num::Int(2));
        assert_eq!(twice.modulo(&Num::Int(2)), Num::Int(0));
        assert_eq!(n("N").modulo(&Num::Int(8)).dim().to_string(), "-8*floor((N)/8) + N");
        assert_eq!(n("N").modulo(&Num::Int(-8)), Num::Unknown);
    }

    #[test]
    fn floats_that_sizes_become_are_followed_as_far_as_they_are_exact() {
        let x = n("N").cast(DType::F32);
        let by = |f: f64| x.mul(&Num::Float(f));
        assert_eq!(by(2.0).cast(DType::I64), n("N").mul(&Num::Int(2)));
        assert_eq!(by(0.5).round(false).cast(DType::I64), n("N").div(&Num::Int(2)));
        assert_eq!(by(0.5).round(true).cast(DType::I64), n("N").add(&Num::Int(1)).div(&Num::Int(2)));
        assert_eq!(by(1.5).cast(DType::I64).dim().to_string(), "floor((N)/2) + N");
        assert_eq!(by(1.0 / 3.0), Num::Unknown);
        assert_eq!(by(f64::NAN), Num::Unknown);
        let third = x.div(&Num::Float(3.0));
        assert_eq!(third.cast(DType::I64), n("N").div(&Num::Int(3)));
        // Rounded, and may be more or less than N.
        assert_eq!(third.mul(&Num::Float(3.0)), Num::Unknown);
        assert_eq!(x.add(&Num::Float(0.5)).round(false).cast(DType::I64), n("N"));
        assert_eq!(x.sub(&x), Num::Float(0.0));
        assert_eq!(x.neg().cast(DType::I64), n("N").neg());
        assert_eq!(by(-0.5).cast(DType::I64), Num::Unknown);
        assert_eq!(n("N").cast(DType::F16), Num::Unknown);
        assert_eq!(x.compare(&Num::Float(-1.0)), Some(Ordering::Greater));
        assert_eq!(x.div(&Num::Float(0.0)), Num::Unknown);
    }

    #[test]
    fn nothing_overflows() {
        assert_eq!(Num::Int(i64::MIN).neg(), Num::Unknown);
        assert_eq!(Num::Int(i64::MIN).div(&Num::Int(-1)), Num::Unknown);
        assert_eq!(Num::Int(i64::MIN).modulo(&Num::Int(-1)), Num::Unknown);
        assert_eq!(Num::Int(i64::MAX).add(&Num::Int(1)), Num::Unknown);
        assert_eq!(Num::Int(1).div(&Num::Int(0)), Num::Unknown);
        assert_eq!(Num::Int(-7).modulo(&Num::Int(3)), Num::Int(2));
        assert_eq!(Num::Float(f64::NAN).cast(DType::I64), Num::Unknown);
        assert_eq!(Num::Int(300).cast(DType::U8), Num::Unknown);
    }
}
