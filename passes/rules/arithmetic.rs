//! Arithmetic on numbers and constants.
//!
//! Floats are calculated in double precision and rounded once; what leaves the range of its type is refused.

use planish_ir::{DType, Dim, Dims, Tensor, product};

use super::{
    ast::Operator,
    literal::near,
    value::{Evaluated, Trouble, Val, wrong},
};

/// Elements of a constant that a rule computes; the largest weights have fewer.
const MAX_ELEMENTS: u64 = 1 << 31;

/// Numbers, sizes, lists and texts.
pub(super) fn binary(operator: Operator, a: &Val, b: &Val) -> Evaluated<Val> {
    use Operator::{Equal, Greater, GreaterEqual, Less, LessEqual, Unequal};
    match operator {
        Equal => equal(a, b).map(Val::Bool),
        Unequal => equal(a, b).map(|e| Val::Bool(!e)),
        Less | LessEqual | Greater | GreaterEqual => {
            let order = match (a, b) {
                (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
                _ => a.float()?.partial_cmp(&b.float()?),
            };
            Ok(Val::Bool(order.is_some_and(|o| match operator {
                Less => o.is_lt(),
                LessEqual => o.is_le(),
                Greater => o.is_gt(),
                _ => o.is_ge(),
            })))
        }
        _ => calculate(operator, a, b),
    }
}

fn calculate(operator: Operator, a: &Val, b: &Val) -> Evaluated<Val> {
    match (a, b) {
        (Val::Int(x), Val::Int(y)) => {
            let result = match operator {
                Operator::Add => x.checked_add(*y),
                Operator::Sub => x.checked_sub(*y),
                Operator::Mul => x.checked_mul(*y),
                Operator::Div if *y != 0 && x.checked_rem(*y) == Some(0) => x.checked_div(*y),
                Operator::Div => return wrong(format!("{x} is no multiple of {y}")),
                _ => x.checked_rem(*y),
            };
            result.map(Val::Int).ok_or_else(|| Trouble::Wrong("an integer is out of range".into()))
        }
        (Val::Dim(_), Val::Int(_) | Val::Dim(_)) | (Val::Int(_), Val::Dim(_)) => {
            let (Some(x), Some(y)) = (a.dim(), b.dim()) else { return Err(Trouble::Unknown) };
            let result = match operator {
                Operator::Add => x.add(&y),
                Operator::Sub => x.sub(&y),
                Operator::Mul => x.mul(&y),
                Operator::Div => x.div_exact(&y).unwrap_or(Dim::Unknown),
                _ => Dim::Unknown,
            };
            Val::size(&result)
        }
        (Val::List(x), Val::List(y)) if operator == Operator::Add => {
            Ok(Val::List(x.iter().chain(y).cloned().collect()))
        }
        _ => {
            let (x, y) = (a.float()?, b.float()?);
            Ok(Val::Float(match operator {
                Operator::Add => x + y,
                Operator::Sub => x - y,
                Operator::Mul => x * y,
                Operator::Div => x / y,
                _ => x % y,
            }))
        }
    }
}

/// Floats are equal within 1e-6: what a file holds was rounded.
fn equal(a: &Val, b: &Val) -> Evaluated<bool> {
    match (a, b) {
        (Val::List(x), Val::List(y)) => {
            if x.len() != y.len() {
                return Ok(false);
            }
            let all: Vec<Evaluated<bool>> = x.iter().zip(y).map(|(x, y)| equal(x, y)).collect();
            // One that differs decides, whatever is not known of the others.
            if all.contains(&Ok(false)) {
                return Ok(false);
            }
            all.into_iter().try_fold(true, |_, e| e)
        }
        (Val::Dim(_), Val::Int(_) | Val::Dim(_)) | (Val::Int(_), Val::Dim(_)) => match (a.dim(), b.dim()) {
            (Some(x), Some(y)) if x.same(&y) => Ok(true),
            (Some(_), Some(_)) => Err(Trouble::Unknown),
            // A negative number is no size.
            _ => Ok(false),
        },
        (Val::Int(x), Val::Int(y)) => Ok(x == y),
        (Val::Int(_) | Val::Float(_), Val::Int(_) | Val::Float(_)) => Ok(near(a.float()?, b.float()?)),
        (Val::Bool(x), Val::Bool(y)) => Ok(x == y),
        (Val::Text(x), Val::Text(y)) => Ok(x == y),
        (Val::Type(x), Val::Type(y)) => Ok(x == y),
        _ => wrong(format!("{a} cannot be compared with {b}")),
    }
}

/// The elements of a constant.
pub(super) fn elements(t: &Tensor) -> Evaluated<Vec<Val>> {
    let failed = |e: planish_ir::TensorError| Trouble::Wrong(e.to_string());
    Ok(match t.dtype().is_float() {
        true => t.to_f64().map_err(failed)?.into_iter().map(Val::Float).collect(),
        false => t.to_i64().map_err(failed)?.into_iter().map(Val::Int).collect(),
    })
}

/// The number that all elements of a constant are.
pub(super) fn uniform(t: &Tensor) -> Evaluated<Val> {
    if t.elements() > 1 << 16 {
        return wrong("the constant is no single number");
    }
    let all = elements(t)?;
    match all.split_first() {
        Some((first, rest)) if rest.iter().all(|v| v == first) => Ok(first.clone()),
        _ => wrong("the constant is no single number"),
    }
}

/// A number as a scalar, or a list as a vector, of this type.
pub(super) fn typed(value: &Val, dtype: DType) -> Evaluated<Tensor> {
    let (dims, values) = match value {
        Val::List(l) => (Dims::from_slice(&[l.len() as u64]), l.as_slice()),
        Val::Tensor(t) => return cast(t, dtype),
        other => (Dims::new(), std::slice::from_ref(other)),
    };
    if dtype.is_float() {
        return floats(dtype, &dims, &values.iter().map(Val::float).collect::<Evaluated<Vec<_>>>()?);
    }
    ints(dtype, &dims, &values.iter().map(Val::int).collect::<Evaluated<Vec<_>>>()?)
}

fn floats(dtype: DType, dims: &[u64], values: &[f64]) -> Evaluated<Tensor> {
    let t = Tensor::from_f64_as(dtype, dims, values).map_err(|e| Trouble::Wrong(e.to_string()))?;
    let stored = t.to_f64().map_err(|e| Trouble::Wrong(e.to_string()))?;
    match stored.iter().zip(values).find(|(s, v)| !s.is_finite() || (**s == 0.0 && **v != 0.0)) {
        Some((_, v)) => wrong(format!("{v} is out of the range of {dtype}")),
        None => Ok(t),
    }
}

fn ints(dtype: DType, dims: &[u64], values: &[i64]) -> Evaluated<Tensor> {
    let mut bytes = Vec::new();
    for &v in values {
        let stored = match dtype {
            DType::I64 => Some(v.to_le_bytes().to_vec()),
            DType::I32 => i32::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::I16 => i16::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::I8 => i8::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::U64 => u64::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::U32 => u32::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::U16 => u16::try_from(v).ok().map(|v| v.to_le_bytes().to_vec()),
            DType::U8 => u8::try_from(v).ok().map(|v| vec![v]),
            DType::Bool if v == 0 || v == 1 => Some(vec![u8::from(v == 1)]),
            _ => None,
        };
        match stored {
            Some(b) => bytes.extend(b),
            None => return wrong(format!("{v} cannot be stored as {dtype}")),
        }
    }
    Tensor::from_raw(dtype, dims, bytes.into()).map_err(|e| Trouble::Wrong(e.to_string()))
}

/// A constant with another element type.
pub(super) fn cast(t: &Tensor, dtype: DType) -> Evaluated<Tensor> {
    if t.dtype() == dtype {
        return Ok(t.clone());
    }
    match (t.dtype().is_float(), dtype.is_float()) {
        (true, true) => floats(dtype, t.dims(), &doubles(t)?),
        (false, true) => {
            let values: Evaluated<Vec<f64>> = elements(t)?.iter().map(Val::float).collect();
            floats(dtype, t.dims(), &values?)
        }
        (false, false) => {
            let values: Evaluated<Vec<i64>> = elements(t)?.iter().map(Val::int).collect();
            ints(dtype, t.dims(), &values?)
        }
        (true, false) => wrong("a rule does not round floats to integers"),
    }
}

fn doubles(t: &Tensor) -> Evaluated<Vec<f64>> {
    t.to_f64().map_err(|e| Trouble::Wrong(e.to_string()))
}

/// A function of each element.
pub(super) fn map(t: &Tensor, f: impl Fn(f64) -> f64) -> Evaluated<Tensor> {
    let values: Vec<f64> = doubles(t)?.into_iter().map(f).collect();
    floats(t.dtype(), t.dims(), &values)
}

/// Two constants of one type, combined element by element as NumPy broadcasts.
pub(super) fn combine(operator: Operator, a: &Tensor, b: &Tensor) -> Evaluated<Tensor> {
    if a.dtype() != b.dtype() {
        return wrong(format!("{} and {} are of different types", a.dtype(), b.dtype()));
    }
    let rank = a.rank().max(b.rank());
    let padded = |t: &Tensor| -> Vec<u64> { [vec![1; rank - t.rank()], t.dims().to_vec()].concat() };
    let (x, y) = (padded(a), padded(b));
    let mut dims = Dims::new();
    for (&x, &y) in x.iter().zip(&y) {
        match (x, y) {
            _ if x == y => dims.push(x),
            (1, n) | (n, 1) => dims.push(n),
            _ => return wrong(format!("{:?} and {:?} do not broadcast", a.dims(), b.dims())),
        }
    }
    let count = size(&dims)?;
    let (from_a, from_b) = (Places::new(&dims, &x), Places::new(&dims, &y));
    if a.dtype().is_float() {
        let (p, q) = (doubles(a)?, doubles(b)?);
        let values = (0..count).map(|i| {
            let (x, y) = (p[from_a.of(i)], q[from_b.of(i)]);
            match operator {
                Operator::Add => x + y,
                Operator::Sub => x - y,
                Operator::Mul => x * y,
                _ => x / y,
            }
        });
        return floats(a.dtype(), &dims, &values.collect::<Vec<_>>());
    }
    let (p, q) = (elements(a)?, elements(b)?);
    let values = (0..count).map(|i| calculate(operator, &p[from_a.of(i)], &q[from_b.of(i)])?.int());
    ints(a.dtype(), &dims, &values.collect::<Evaluated<Vec<_>>>()?)
}

/// Where the elements of a stretched tensor are in the one that it was made of.
struct Places {
    /// Size in the result, step in the source; innermost axis first.
    axes: Vec<(usize, usize)>,
}

impl Places {
    fn new(dims: &[u64], source: &[u64]) -> Places {
        let mut step = 1usize;
        let axes = dims.iter().zip(source).rev().map(|(&d, &s)| {
            let own = if s == 1 { 0 } else { step };
            step = step.saturating_mul(s as usize);
            (d as usize, own)
        });
        Places { axes: axes.collect() }
    }

    fn of(&self, mut i: usize) -> usize {
        let mut at = 0;
        for &(size, step) in &self.axes {
            at += (i % size) * step;
            i /= size;
        }
        at
    }
}

fn size(dims: &[u64]) -> Evaluated<usize> {
    let count = product(dims).filter(|&n| n <= MAX_ELEMENTS).and_then(|n| usize::try_from(n).ok());
    count.ok_or_else(|| Trouble::Wrong(format!("{dims:?} are too many elements")))
}

fn element_bytes(t: &Tensor) -> Evaluated<(usize, &[u8])> {
    match t.raw() {
        Some(raw) if t.dtype().bits() >= 8 => Ok(((t.dtype().bits() / 8) as usize, raw)),
        _ => wrong(format!("elements of type {} cannot be moved", t.dtype())),
    }
}

/// A constant with its axes in another order.
pub(super) fn transpose(t: &Tensor, perm: &[i64]) -> Evaluated<Tensor> {
    let axes: Vec<usize> = perm.iter().filter_map(|&a| usize::try_from(a).ok()).collect();
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if sorted != (0..t.rank()).collect::<Vec<_>>() {
        return wrong(format!("{perm:?} is no order of {} axes", t.rank()));
    }
    let (width, raw) = element_bytes(t)?;
    let mut steps = vec![1usize; t.rank()];
    for i in (1..t.rank()).rev() {
        steps[i - 1] = steps[i].saturating_mul(t.dims()[i] as usize);
    }
    let dims: Dims = axes.iter().map(|&a| t.dims()[a]).collect();
    let places = Places { axes: axes.iter().rev().map(|&a| (t.dims()[a] as usize, steps[a])).collect() };
    let mut bytes = Vec::with_capacity(raw.len());
    for i in 0..size(&dims)? {
        let at = places.of(i) * width;
        bytes.extend_from_slice(raw.get(at..at + width).unwrap_or_default());
    }
    Tensor::from_raw(t.dtype(), dims, bytes.into()).map_err(|e| Trouble::Wrong(e.to_string()))
}

/// A constant with other sizes; one may be -1.
pub(super) fn reshape(t: &Tensor, sizes: &[i64]) -> Evaluated<Tensor> {
    let known: Dims = sizes.iter().filter_map(|&s| u64::try_from(s).ok()).collect();
    let rest = size(&known)? as u64;
    let open = sizes.iter().filter(|&&s| s == -1).count();
    if open > 1 || known.len() + open != sizes.len() {
        return wrong(format!("{sizes:?} are no sizes"));
    }
    let fill = t.elements().checked_div(rest).unwrap_or(0);
    let dims: Dims = sizes.iter().map(|&s| u64::try_from(s).unwrap_or(fill)).collect();
    t.with_dims(dims).map_err(|e| Trouble::Wrong(e.to_string()))
}

/// Constants joined along an axis.
pub(super) fn concat(all: &[Tensor], axis: i64) -> Evaluated<Tensor> {
    let [first, ..] = all else { return wrong("there is nothing to join") };
    let from_end = if axis < 0 { axis + first.rank() as i64 } else { axis };
    let Some(axis) = usize::try_from(from_end).ok().filter(|&a| a < first.rank()) else {
        return wrong(format!("there is no axis {axis}"));
    };
    let fits = |t: &Tensor| {
        let others =
            |t: &Tensor| t.dims().iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| *d).collect::<Dims>();
        t.dtype() == first.dtype() && t.rank() == first.rank() && others(t) == others(first)
    };
    if !all.iter().all(fits) {
        return wrong("the constants do not fit together");
    }
    let mut dims = Dims::from_slice(first.dims());
    dims[axis] = all.iter().try_fold(0u64, |n, t| n.checked_add(t.dims()[axis])).ok_or(Trouble::Unknown)?;
    size(&dims)?;
    let outer = size(&first.dims()[..axis])?;
    let parts = all.iter().map(element_bytes).collect::<Evaluated<Vec<_>>>()?;
    let mut bytes = Vec::new();
    for row in 0..outer {
        for (_, raw) in &parts {
            let length = raw.len() / outer.max(1);
            bytes.extend_from_slice(raw.get(row * length..(row + 1) * length).unwrap_or_default());
        }
    }
    Tensor::from_raw(first.dtype(), dims, bytes.into()).map_err(|e| Trouble::Wrong(e.to_string()))
}
