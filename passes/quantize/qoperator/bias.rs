//! Biases as integers.

use planish_ir::{DType, Dims, Patch, Ref, Tensor, TensorError, ValueId, little_endian};

use crate::{Skip, lint::View};

/// A scale may differ by so much from the product that it is rounded from.
const ROUNDING: f64 = 4.0 * f32::EPSILON as f64;

/// A bias as a vector of int32, in units of the product of both scales: the codes that it was dequantized from if they count in these,
/// and otherwise what its numbers are rounded to.
pub(super) fn codes(view: &View<'_>, bias: ValueId, scales: [ValueId; 2], patch: &mut Patch) -> Result<Ref, Skip> {
    let name = view.name(bias);
    let because = |problem: &str| Skip::because(format!("its bias {name:?} {problem}"));
    let read = |v: ValueId, problem: &str| {
        let tensor = view.constant(v).ok_or_else(|| because(problem))?;
        let integers = || tensor.to_i64().map(|all| all.into_iter().map(|i| i as f64).collect());
        tensor.to_f64().or_else(|_| integers()).map_err(|e: TensorError| because(&e.to_string()))
    };
    let [x, w] = scales.map(|s| read(s, "counts in units of scales that are computed"));
    let (x, w) = (x?, w?);
    let &[x] = x.as_slice() else { return Err(because("counts in units of several scales of activations")) };
    let units: Vec<f64> = w.iter().map(|w| w * x).collect();
    let rank = view.facts.fact(bias).shape().map(<[_]>::len);
    let (numbers, counted) = match view.dequantized(bias).map(|grid| grid.node) {
        None => (read(bias, "is computed")?, None),
        Some(dequantize) => {
            let int32 = dequantize.input(0).filter(|&c| view.dtype(Some(c)) == Some(DType::I32));
            let codes = int32.ok_or_else(|| because("is dequantized from other integers than int32"))?;
            let scale = dequantize.input(1).ok_or(Skip::NoMatch)?;
            let scale = read(scale, "has a scale that is computed")?;
            let zero = dequantize.input(2).map(|z| read(z, "has a zero point that is computed")).transpose()?;
            if zero.is_some_and(|z| z.iter().any(|z| *z != 0.0)) {
                return Err(because("has a zero point that is not 0"));
            }
            let numbers = read(codes, "is computed")?;
            let numbers: Vec<f64> = numbers.iter().zip(scale.iter().cycle()).map(|(q, s)| q * s).collect();
            let near = |(s, unit): (&f64, &f64)| (s / unit - 1.0).abs() <= ROUNDING;
            let is_unit = scale.iter().cycle().zip(units.iter().cycle()).take(numbers.len()).all(near);
            (numbers, is_unit.then_some(codes))
        }
    };
    if rank != Some(1) || !(units.len() == 1 || units.len() == numbers.len()) {
        return Err(because("is no vector with an element for each channel"));
    }
    if let Some(codes) = counted {
        return Ok(codes.into());
    }
    let encode = |(b, unit): (&f64, &f64)| {
        let code = (b / unit).round_ties_even();
        (code.abs() <= f64::from(i32::MAX)).then_some(code as i32)
    };
    let codes: Option<Vec<i32>> = numbers.iter().zip(units.iter().cycle()).map(encode).collect();
    let codes = codes.ok_or_else(|| because("has numbers that int32 does not hold in units of both scales"))?;
    let dims = Dims::from_slice(&[codes.len() as u64]);
    let tensor = Tensor::from_raw(DType::I32, dims, little_endian(&codes, i32::to_le_bytes));
    Ok(patch.constant(format!("{name}_codes"), tensor.map_err(|e| because(&e.to_string()))?))
}
