//! Reshape.
//!
//! Opsets: 1 (`shape` is an attribute), 5 (an input), 13, 14 `allowzero`, 19 to 25 more types.
//!
//! Shape rule: the target as given; 0 copies the input's size at that place unless `allowzero` is set, and one -1 takes
//! what is left.

use super::{OpSpec, Traits, sig};
use crate::axes::{self, At, Port::Out, Spelling, Why};
use crate::{
    Dim, Shape,
    infer::{
        Call, Num, Outcome,
        shape::{show, volume},
    },
};

pub(super) static SPEC: OpSpec = OpSpec::new("Reshape", &[sig(1, 1, 1), sig(5, 2, 2)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let listed: Option<Vec<Num>> = call.attrs().ints("shape").map(|s| s.iter().map(|&n| Num::Int(n)).collect());
    let target = if call.opset < 5 { listed } else { call.per_axis(1) };
    let Some(target) = target else { return Ok(vec![call.like(0, None)]) };
    let shape = resolve(call.shape(0), &target, call.flag("allowzero", false))?;
    Ok(vec![call.like(0, Some(shape)).with(call.fact(0).shared())])
}

/// The target lists the sizes of the output.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    axes::reshape(s)?;
    let listed = s.call.opset < 5;
    s.state_axes(Out(0), |axis| if listed { At::Item("shape", axis) } else { At::Input(1, axis) });
    Ok(())
}

/// The shape that a target asks for.
fn resolve(input: Option<&[Dim]>, target: &[Num], allow_zero: bool) -> Result<Shape, String> {
    let mut shape = Vec::with_capacity(target.len());
    // Sizes of the input that the output does not simply copy.
    let mut rest: Option<Vec<Option<&Dim>>> = input.map(|s| s.iter().map(Some).collect());
    let mut free = Vec::new();
    for (i, n) in target.iter().enumerate() {
        match n {
            Num::Int(0) if !allow_zero => {
                let copied =
                    input.map(|s| s.get(i).ok_or_else(|| format!("size {i} is to be copied from {}", show(s))));
                shape.push(copied.transpose()?.cloned().unwrap_or(Dim::Unknown));
                if let Some(slot) = rest.as_mut().and_then(|r| r.get_mut(i)) {
                    *slot = None;
                }
                continue;
            }
            Num::Int(-1) => free.push(i),
            Num::Int(n) if *n < 0 => return Err(format!("the target size {n} is negative")),
            Num::Unknown => free.push(i),
            Num::Int(_) | Num::Float(_) | Num::Symbolic(_) | Num::Quotient(..) => {}
        }
        shape.push(n.dim());
    }
    if target.iter().filter(|n| **n == Num::Int(-1)).count() > 1 {
        return Err("more than one target size is -1".into());
    }
    let Some(mut rest) = rest else { return Ok(shape) };
    let mut fixed = Dim::Known(1);
    for (i, d) in shape.iter().enumerate() {
        let copied = target.get(i) == Some(&Num::Int(0)) && !allow_zero;
        if copied || free.contains(&i) {
            continue;
        }
        // The same expression on both sides cancels, also where it is a sum that no division takes apart.
        match rest.iter_mut().find(|r| r.is_some_and(|r| r.same(d) && !matches!(d, Dim::Known(0)))) {
            Some(slot) => *slot = None,
            None => fixed = fixed.mul(d),
        }
    }
    let total = volume(rest.into_iter().flatten());
    match free.as_slice() {
        [] => match (total.known(), fixed.known()) {
            (Some(a), Some(b)) if a != b => {
                Err(format!("{} does not have as many elements as {}", show(input.unwrap_or(&[])), show(&shape)))
            }
            _ => Ok(shape),
        },
        [at] => {
            let size = match (total.known(), fixed.known()) {
                (Some(a), Some(b)) if b != 0 && a % b != 0 => {
                    return Err(format!("{a} elements do not divide by {b}, the product of the target sizes"));
                }
                // Where it divides, rounding makes no difference, and gives the quotient a name.
                (_, Some(b)) => total.floor_div(b),
                _ => total.div_exact(&fixed).unwrap_or(Dim::Unknown),
            };
            if let Some(slot) = shape.get_mut(*at) {
                *slot = size;
            }
            Ok(shape)
        }
        _ => Ok(shape),
    }
}
