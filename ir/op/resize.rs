//! Resize and its ancestor Upsample.
//!
//! Opsets: Upsample 1 (`height_scale`, `width_scale`), 7 (`scales` is an attribute), 9 (an input), gone with 10. Resize 10
//! (`scales`), 11 (`roi`, `scales`, `sizes`), 13, 18 (`axes`, `keep_aspect_ratio_policy`), 19.
//!
//! Shape rule: the listed sizes, or each axis times its scale, rounded down. With a policy other than `stretch` the
//! smallest or largest of the scales that the sizes imply holds for all axes. With `tf_crop_and_resize`, scales apply to
//! the region of interest.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim, Shape,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static RESIZE: OpSpec =
    OpSpec::new("Resize", &[sig(10, 2, 2), sig(11, 3, 4), sig(13, 1, 4)], Traits::ROUNDING, infer).axes(axes);
pub(super) static UPSAMPLE: OpSpec =
    OpSpec::new("Upsample", &[sig(1, 1, 1), sig(9, 2, 2)], Traits::ROUNDING, infer_upsample).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let axes: Vec<usize> = match call.attrs().ints("axes") {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_, _>>()?,
        None => (0..input.len()).collect(),
    };
    let (scales, sizes) = if call.opset < 11 { (1, None) } else { (2, Some(3)) };
    if let Some(slot) = sizes.filter(|&s| call.has(s)) {
        return Ok(vec![call.like(0, Some(sized(call, input, &axes, slot)?))]);
    }
    if call.attrs().str("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
        return Ok(vec![call.like(0, Some(vec![Dim::Unknown; input.len()]))]);
    }
    Ok(vec![call.like(0, Some(scaled(input, &axes, call.elements(scales))?))])
}

fn infer_upsample(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let axes: Vec<usize> = (0..input.len()).collect();
    let attr = |name: &str| call.attrs().float(name).map(|x| Num::Float(f64::from(x)));
    let scales: Option<Vec<Num>> = if call.opset >= 9 {
        call.elements(1).map(<[_]>::to_vec)
    } else if call.opset >= 7 {
        match call.attrs().get("scales") {
            Some(crate::Attr::Floats(v)) => Some(v.iter().map(|&x| Num::Float(f64::from(x))).collect()),
            _ => None,
        }
    } else {
        attr("height_scale").zip(attr("width_scale")).map(|(h, w)| vec![Num::Float(1.0), Num::Float(1.0), h, w])
    };
    Ok(vec![call.like(0, Some(scaled(input, &axes, scales.as_deref())?))])
}

fn scaled(input: &[Dim], axes: &[usize], scales: Option<&[Num]>) -> Result<Shape, String> {
    let Some(scales) = scales else { return Ok(set(input, axes, |_, _| Dim::Unknown)) };
    if scales.len() != axes.len() {
        return Err(format!("it is given {} scales for {} axes", scales.len(), axes.len()));
    }
    Ok(set(input, axes, |i, d| scales.get(i).map_or(Dim::Unknown, |s| scale(d, s))))
}

fn scale(d: &Dim, by: &Num) -> Dim {
    let Num::Float(by) = by else { return Dim::Unknown };
    match d {
        // In single precision, as runtimes do.
        Dim::Known(n) if *n <= 1 << 24 && *by > 0.0 && *by < 65536.0 => {
            Dim::Known((*n as f32 * *by as f32).floor() as u64)
        }
        Dim::Symbolic(_) if by.fract() == 0.0 && *by > 0.0 && *by < 65536.0 => d.mul(&Dim::Known(*by as u64)),
        // Powers of two are exact in any precision.
        Dim::Symbolic(_) if [0.5, 0.25, 0.125].contains(by) => d.floor_div((1.0 / by) as u64),
        Dim::Known(_) | Dim::Symbolic(_) | Dim::Unknown => Dim::Unknown,
    }
}

fn sized(call: &Call<'_>, input: &[Dim], axes: &[usize], slot: usize) -> Result<Shape, String> {
    let Some(sizes) = call.elements(slot) else { return Ok(set(input, axes, |_, _| Dim::Unknown)) };
    if sizes.len() != axes.len() {
        return Err(format!("it is given {} sizes for {} axes", sizes.len(), axes.len()));
    }
    let policy = call.attrs().str("keep_aspect_ratio_policy").unwrap_or("stretch");
    if policy == "stretch" {
        return Ok(set(input, axes, |i, _| sizes.get(i).map_or(Dim::Unknown, Num::dim)));
    }
    let ratios: Option<Vec<f64>> = axes
        .iter()
        .zip(sizes)
        .map(|(&a, s)| Some(s.float()? / input.get(a)?.known().filter(|&n| n > 0)? as f64))
        .collect();
    let Some(ratios) = ratios else { return Ok(set(input, axes, |_, _| Dim::Unknown)) };
    let ratio = match policy {
        "not_larger" => ratios.into_iter().fold(f64::INFINITY, f64::min),
        _ => ratios.into_iter().fold(0.0, f64::max),
    };
    // Rounded half up.
    let size = |d: &Dim| d.known().map_or(Dim::Unknown, |n| Dim::Known((n as f64 * ratio + 0.5).floor() as u64));
    Ok(set(input, axes, |_, d| size(d)))
}

/// The shape with some axes replaced; `f` gets the place among the axes and the old size.
fn set(input: &[Dim], axes: &[usize], f: impl Fn(usize, &Dim) -> Dim) -> Shape {
    let mut shape = input.to_vec();
    for (i, &a) in axes.iter().enumerate() {
        if let Some(d) = shape.get_mut(a) {
            *d = f(i, d);
        }
    }
    shape
}

/// `0[n,c,h!] -> 0[n,c,i!]`: axes that keep their size are tied.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    if s.call.attrs().str("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
        return Err("it also cuts");
    }
    let (input, output) = (s.shape(In(0))?, s.shape(Out(0))?);
    for (axis, (before, after)) in input.iter().zip(output).enumerate() {
        if before.same(after) {
            s.tie(&[(In(0), axis), (Out(0), axis)], Role::Free)?;
        } else {
            s.whole(In(0), axis, "it is interpolated")?;
            s.whole(Out(0), axis, "it is interpolated")?;
        }
    }
    // Older versions have scales only; so have those whose list of sizes is left out.
    if s.call.opset >= 11 && s.has(In(3)) && s.call.attrs().ints("axes").is_none() {
        s.state_axes(Out(0), |axis| At::Input(3, axis));
    }
    Ok(())
}
