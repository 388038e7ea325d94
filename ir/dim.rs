//! Symbolic dimensions: an integer, a polynomial of named sizes such as `batch*seq + 1`, or unknown.
//!
//! Two dims compare equal only when they are provably the same size; [`Dim::Unknown`] is therefore not equal to itself
//! under [`Dim::same`], although it is under `==`, which compares the representation.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::ValueId;

/// Names with multiplicity, sorted: the product that they stand for.
type Monomial = Vec<String>;

/// The size of one axis.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dim {
    /// A fixed size.
    Known(u64),
    /// A polynomial with integer coefficients over named sizes; never constant (that is [`Dim::Known`]).
    Symbolic(Poly),
    /// Nothing is known.
    Unknown,
}

/// Sum of coefficient times monomial. The empty monomial is the constant term; no coefficient is zero. Shared, because most
/// operators hand sizes on as they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Poly(Arc<Terms>);

type Terms = BTreeMap<Monomial, i64>;

/// Bound on the terms of one polynomial. Longer ones are of no use to a rewrite and would let a small hostile file
/// (a chain of `Concat` and `Mul` over shapes) grow without bound; they become [`Dim::Unknown`].
const MAX_TERMS: usize = 16;
/// Bound on the degree of one monomial, for the same reason.
const MAX_DEGREE: usize = 8;

/// How the names of quotients begin.
const FLOOR: &str = "floor(";
/// How the names of minima and maxima begin.
const MIN: &str = "min(";
const MAX: &str = "max(";
/// How the names of sizes begin of which nothing is known but where they occur.
const OPEN: char = '?';
/// Bound on such names: each division of a quotient nests it deeper.
const MAX_RESULT: usize = 256;

impl Dim {
    /// A named size, as in `dim_param`. An empty name says nothing, nor do the placeholders `?`, `-1` and `None`, which
    /// exporters write for every size that is open: two axes called `?` need not be equal.
    pub fn symbol(name: &str) -> Dim {
        if matches!(name, "" | "?" | "-1" | "None") {
            return Dim::Unknown;
        }
        Dim::Symbolic(Poly::new(BTreeMap::from([(vec![name.to_owned()], 1)])))
    }

    /// The fixed size, if it is one.
    pub const fn known(&self) -> Option<u64> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Symbolic(_) | Dim::Unknown => None,
        }
    }

    /// True if both are provably the same size.
    pub fn same(&self, other: &Dim) -> bool {
        !matches!(self, Dim::Unknown) && self == other
    }

    /// True unless the two are provably different sizes.
    pub fn compatible(&self, other: &Dim) -> bool {
        match (self.known(), other.known()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }

    /// Replaces names by sizes; names that are not in `sizes` stay. `Unknown` under the same conditions as [`Dim::sub`].
    pub fn bind(&self, sizes: &BTreeMap<String, u64>) -> Dim {
        let Dim::Symbolic(poly) = self else { return self.clone() };
        if !self.names().any(|name| sizes.contains_key(name)) {
            return self.clone();
        }
        let mut terms = Terms::new();
        for (names, &coefficient) in poly.0.iter() {
            let mut product = Some(coefficient);
            let mut open = Monomial::new();
            for name in names {
                match sizes.get(name) {
                    Some(&n) => product = product.zip(i64::try_from(n).ok()).and_then(|(p, n)| p.checked_mul(n)),
                    None => open.push(name.clone()),
                }
            }
            let entry = terms.entry(open).or_insert(0);
            let Some(sum) = product.and_then(|p| entry.checked_add(p)) else { return Dim::Unknown };
            *entry = sum;
        }
        Poly::new(terms).into_dim_signed().non_negative()
    }

    /// The names that occur.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let poly = match self {
            Dim::Symbolic(poly) => Some(poly),
            Dim::Known(_) | Dim::Unknown => None,
        };
        poly.into_iter().flat_map(|p| p.0.keys().flatten().map(String::as_str))
    }

    /// Sum. `Unknown` if either is unknown or the result leaves the 64-bit range.
    pub fn add(&self, other: &Dim) -> Dim {
        let (Some(mut a), Some(b)) = (self.poly(), other.poly()) else { return Dim::Unknown };
        let terms = Arc::make_mut(&mut a.0);
        for (names, &c) in b.0.iter() {
            let entry = terms.entry(names.clone()).or_insert(0);
            let Some(sum) = entry.checked_add(c) else { return Dim::Unknown };
            *entry = sum;
        }
        a.into_dim()
    }

    /// Difference. `Unknown` under the same conditions as [`Dim::add`], or if it is a negative constant.
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul_signed(&Dim::from_i64(-1))).non_negative()
    }

    /// Product. `Unknown` under the same conditions as [`Dim::add`].
    pub fn mul(&self, other: &Dim) -> Dim {
        self.mul_signed(other).non_negative()
    }

    /// Quotient where it is exact: every coefficient is divisible, and every monomial contains the divisor's names.
    pub fn div_exact(&self, divisor: &Dim) -> Option<Dim> {
        let (a, b) = (self.poly()?, divisor.poly()?);
        let mut terms = b.0.iter();
        let (names, &c) = terms.next()?;
        if terms.next().is_some() {
            return (self.same(divisor)).then_some(Dim::Known(1));
        }
        let mut quotient = BTreeMap::new();
        for (mut monomial, coefficient) in Arc::unwrap_or_clone(a.0) {
            if coefficient.checked_rem(c)? != 0 {
                return None;
            }
            for name in names {
                let at = monomial.iter().position(|n| n == name)?;
                monomial.remove(at);
            }
            quotient.insert(monomial, coefficient.checked_div(c)?);
        }
        Some(Poly::new(quotient).into_dim())
    }

    /// Quotient rounded down. What does not divide becomes a name of its own, `floor((H + 1)/2)`, in a form in which equal
    /// quotients are spelled equally as far as that is cheap. `Unknown` for a divisor of 0 and for names that grow long.
    pub(crate) fn floor_div(&self, by: u64) -> Dim {
        if let Dim::Known(n) = self {
            return n.checked_div(by).map_or(Dim::Unknown, Dim::Known);
        }
        let (Some(poly), Ok(divisor)) = (self.poly(), i64::try_from(by)) else { return Dim::Unknown };
        let (mut whole, mut rest) = (BTreeMap::new(), BTreeMap::new());
        for (names, c) in Arc::unwrap_or_clone(poly.0) {
            let (Some(q), Some(r)) = (c.checked_div_euclid(divisor), c.checked_rem_euclid(divisor)) else {
                return Dim::Unknown;
            };
            whole.insert(names.clone(), q);
            rest.insert(names, r);
        }
        // A constant rest is less than the divisor.
        let rest = match Poly::new(rest).into_dim() {
            Dim::Symbolic(rest) => {
                let name = format!("{FLOOR}({})/{by})", Dim::Symbolic(rest));
                if name.len() > MAX_RESULT {
                    return Dim::Unknown;
                }
                Dim::symbol(&name)
            }
            Dim::Known(_) => Dim::Known(0),
            Dim::Unknown => return Dim::Unknown,
        };
        Poly::new(whole).into_dim_signed().add(&rest).non_negative()
    }

    /// The smaller one. What is not known beforehand becomes a name of its own, `min(5, N)`; `Unknown` for names that grow
    /// long.
    pub(crate) fn smaller(&self, other: &Dim) -> Dim {
        match (self.is_at_least(other), other.is_at_least(self)) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => self.choice(other, MIN),
        }
    }

    /// The larger one, in the same way.
    pub(crate) fn larger(&self, other: &Dim) -> Dim {
        match (self.is_at_least(other), other.is_at_least(self)) {
            (true, _) => self.clone(),
            (_, true) => other.clone(),
            _ => self.choice(other, MAX),
        }
    }

    fn is_at_least(&self, other: &Dim) -> bool {
        self.add(&other.mul_signed(&Dim::from_i64(-1))).lower_bound().is_some_and(|l| l >= 0)
    }

    fn choice(&self, other: &Dim, function: &str) -> Dim {
        if *self == Dim::Unknown || *other == Dim::Unknown {
            return Dim::Unknown;
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        let name = format!("{function}{a}, {b})");
        if name.len() > MAX_RESULT { Dim::Unknown } else { Dim::symbol(&name) }
    }

    /// The name of a size of which nothing else is known: that of an axis of a value of a graph.
    pub(crate) fn open(scope: &str, value: ValueId, axis: usize) -> Dim {
        let name = format!("{OPEN}{scope}{value}.{axis}");
        if name.len() > MAX_RESULT { Dim::Unknown } else { Dim::symbol(&name) }
    }

    /// True if the name of a size of which nothing else is known occurs in it.
    pub fn is_open(&self) -> bool {
        self.names().any(|n| n.contains(OPEN))
    }

    /// True if a name occurs in it that [`Dim::open`] gives in that scope, or in one inside of it.
    pub(crate) fn is_open_in(&self, scope: &str) -> bool {
        self.is_open() && {
            let open = format!("{OPEN}{scope}");
            self.names().any(|n| n.contains(&open))
        }
    }

    /// True if a name in it could be mistaken for one that is formed here.
    pub(crate) fn names_result(&self) -> bool {
        self.names().any(|n| n.starts_with(FLOOR) || n.starts_with(MIN) || n.starts_with(MAX) || n.contains(OPEN))
    }

    /// The dim plus a signed constant; `Unknown` if that is provably no size.
    pub(crate) fn offset(&self, by: i64) -> Dim {
        self.add(&Dim::from_i64(by)).non_negative()
    }

    /// The constant, also a negative one, that an intermediate result is.
    pub(crate) fn signed(&self) -> Option<i64> {
        match self {
            Dim::Known(n) => i64::try_from(*n).ok(),
            Dim::Symbolic(p) => p.constant(),
            Dim::Unknown => None,
        }
    }

    /// The least that it can be if every name stands for zero or more; `None` if that is not bounded.
    pub(crate) fn lower_bound(&self) -> Option<i64> {
        let p = self.poly()?;
        let bounded = p.0.iter().all(|(names, &c)| names.is_empty() || c >= 0);
        bounded.then(|| p.0.get(&Vec::new()).copied().unwrap_or(0))
    }

    /// A constant, which may be negative as an intermediate result.
    pub(crate) fn from_i64(n: i64) -> Dim {
        Poly::new(BTreeMap::from([(Vec::new(), n)])).into_dim_signed()
    }

    fn poly(&self) -> Option<Poly> {
        match self {
            Dim::Known(n) => Some(Poly::new(BTreeMap::from([(Vec::new(), i64::try_from(*n).ok()?)]))),
            Dim::Symbolic(p) => Some(p.clone()),
            Dim::Unknown => None,
        }
    }

    /// Product of intermediate results, which may be negative.
    pub(crate) fn mul_signed(&self, other: &Dim) -> Dim {
        let (Some(a), Some(b)) = (self.poly(), other.poly()) else { return Dim::Unknown };
        let mut product: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (x, cx) in a.0.iter() {
            for (y, cy) in b.0.iter() {
                let mut names: Monomial = x.iter().chain(y).cloned().collect();
                names.sort_unstable();
                let Some(c) = cx.checked_mul(*cy) else { return Dim::Unknown };
                let entry = product.entry(names).or_insert(0);
                let Some(sum) = entry.checked_add(c) else { return Dim::Unknown };
                *entry = sum;
            }
        }
        Poly::new(product).into_dim_signed()
    }

    /// A polynomial that is a negative constant is no size.
    fn non_negative(self) -> Dim {
        match &self {
            Dim::Symbolic(p) if p.constant().is_some() => Dim::Unknown,
            _ => self,
        }
    }
}

impl Poly {
    fn new(terms: Terms) -> Poly {
        Poly(Arc::new(terms))
    }

    /// The value if no name occurs.
    fn constant(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    fn into_dim(self) -> Dim {
        self.into_dim_signed()
    }

    /// Negative constants stay polynomials here, because they occur as intermediate results of [`Dim::sub`].
    fn into_dim_signed(mut self) -> Dim {
        if self.0.values().any(|&c| c == 0) {
            Arc::make_mut(&mut self.0).retain(|_, c| *c != 0);
        }
        if self.0.len() > MAX_TERMS || self.0.keys().any(|m| m.len() > MAX_DEGREE) {
            return Dim::Unknown;
        }
        match self.constant().map(u64::try_from) {
            Some(Ok(n)) => Dim::Known(n),
            Some(Err(_)) | None => Dim::Symbolic(self),
        }
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        Dim::Known(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Unknown => f.write_str("?"),
            Dim::Symbolic(p) => {
                for (i, (names, &c)) in p.0.iter().rev().enumerate() {
                    match (i, c < 0) {
                        (0, true) => f.write_str("-")?,
                        (_, true) => f.write_str(" - ")?,
                        (0, false) => {}
                        (_, false) => f.write_str(" + ")?,
                    }
                    let magnitude = c.unsigned_abs();
                    if names.is_empty() {
                        write!(f, "{magnitude}")?;
                    } else if magnitude == 1 {
                        f.write_str(&names.join("*"))?;
                    } else {
                        write!(f, "{magnitude}*{}", names.join("*"))?;
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn arithmetic_is_canonical() {
        let a = s("seq").mul(&s("heads")).add(&Dim::Known(1));
        let b = Dim::Known(1).add(&s("heads").mul(&s("seq")));
        assert!(a.same(&b));
        assert_eq!(a.to_string(), "heads*seq + 1");
        assert_eq!(a.sub(&Dim::Known(1)).div_exact(&s("seq")), Some(s("heads")));
        assert_eq!(s("n").sub(&s("n")), Dim::Known(0));
        assert_eq!(Dim::Known(2).sub(&Dim::Known(3)), Dim::Unknown);
        assert_eq!(s("n").sub(&Dim::Known(1)).add(&Dim::Known(1)), s("n"));
    }

    #[test]
    fn unknown_is_the_same_as_nothing() {
        assert!(!Dim::Unknown.same(&Dim::Unknown));
        assert!(Dim::Unknown.compatible(&Dim::Known(3)));
        assert!(!Dim::Known(2).compatible(&Dim::Known(3)));
    }

    #[test]
    fn overflow_and_growth_end_in_unknown() {
        assert_eq!(Dim::Known(u64::MAX).mul(&Dim::Known(2)), Dim::Unknown);
        let mut d = s("a").add(&s("b")).add(&Dim::Known(1));
        for _ in 0..6 {
            d = d.mul(&d.clone());
        }
        assert_eq!(d, Dim::Unknown);
    }

    #[test]
    fn quotients_have_one_form() {
        let half = |d: &Dim| d.floor_div(2);
        let n = s("N");
        assert_eq!(half(&n.offset(1)).to_string(), "floor((N + 1)/2)");
        // A convolution with kernel 3, padding 1 and stride 2, and one with kernel 1.
        assert_eq!(half(&n.offset(-1)).offset(1), half(&n.offset(1)));
        assert_eq!(half(&n.mul(&Dim::Known(2)).offset(1)), n);
        assert_eq!(half(&n.mul(&Dim::Known(3))).to_string(), "floor((N)/2) + N");
        assert_eq!(n.floor_div(0), Dim::Unknown);
        let mut d = n;
        for _ in 0..100 {
            d = half(&d);
        }
        assert_eq!(d, Dim::Unknown);
    }

    #[test]
    fn names_are_bound_to_sizes() {
        let d = s("n").mul(&Dim::Known(2)).add(&s("m"));
        assert_eq!(d.bind(&BTreeMap::from([("n".into(), 3), ("m".into(), 1)])), Dim::Known(7));
        assert_eq!(d.bind(&BTreeMap::from([("n".into(), 3)])).to_string(), "m + 6");
    }
}
