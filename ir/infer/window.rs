//! Sizes of what a sliding window yields: convolutions and pools.

use super::Call;
use crate::Dim;

/// How a window slides over the spatial axes. All lists have one entry per spatial axis.
#[derive(Debug, Clone)]
pub struct Window {
    /// Size of the window.
    pub kernel: Vec<Dim>,
    /// Steps.
    pub strides: Vec<u64>,
    /// Distances between the taps of the window.
    pub dilations: Vec<u64>,
    /// Added before and after each axis.
    pub pads: Vec<(i64, i64)>,
    /// How pads are chosen.
    pub auto: AutoPad,
    /// Whether a last window that is not full counts.
    pub ceil: bool,
}

/// The attribute `auto_pad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoPad {
    /// As `pads` says.
    Explicit,
    /// None.
    Valid,
    /// As many as make the output `ceil(input / stride)`.
    Same,
}

impl Window {
    /// Reads strides, dilations and pads of a node with `axes` spatial axes. Fails on lists of other lengths.
    pub fn read(call: &Call<'_>, kernel: Vec<Dim>) -> Result<Window, String> {
        let axes = kernel.len();
        let attrs = call.attrs();
        let positive = |name: &str| -> Result<Vec<u64>, String> {
            let Some(list) = attrs.ints(name) else { return Ok(vec![1; axes]) };
            let list: Option<Vec<u64>> = list.iter().map(|&n| u64::try_from(n).ok().filter(|&n| n > 0)).collect();
            list.filter(|l| l.len() == axes)
                .ok_or_else(|| format!("{name} has to list {axes} positive numbers, one per spatial axis"))
        };
        let auto = match attrs.str("auto_pad") {
            None | Some("NOTSET" | "") => AutoPad::Explicit,
            Some("VALID") => AutoPad::Valid,
            Some("SAME_UPPER" | "SAME_LOWER") => AutoPad::Same,
            Some(other) => return Err(format!("auto_pad is {other:?}, which is not defined")),
        };
        let pads = match (auto, attrs.ints("pads")) {
            (AutoPad::Explicit, Some(pads)) if pads.len() == axes.saturating_mul(2) => {
                pads.iter().take(axes).copied().zip(pads.iter().skip(axes).copied()).collect()
            }
            (AutoPad::Explicit, Some(_)) => {
                return Err(format!(
                    "pads has to list {axes} numbers for the beginnings and then for the ends of the axes"
                ));
            }
            _ => vec![(0, 0); axes],
        };
        let ceil = call.flag("ceil_mode", false);
        Ok(Window { strides: positive("strides")?, dilations: positive("dilations")?, kernel, pads, auto, ceil })
    }

    /// Sizes of the output along the spatial axes, from those of the input.
    pub fn slide(&self, input: &[Dim]) -> Vec<Dim> {
        input.iter().enumerate().map(|(i, d)| self.slide_axis(i, d)).collect()
    }

    fn slide_axis(&self, i: usize, input: &Dim) -> Dim {
        let (Some(kernel), Some(&stride), Some(&dilation), Some(&(before, after))) =
            (self.kernel.get(i), self.strides.get(i), self.dilations.get(i), self.pads.get(i))
        else {
            return Dim::Unknown;
        };
        if self.auto == AutoPad::Same {
            return match stride {
                1 => input.clone(),
                _ => ceil_div(input, stride),
            };
        }
        let Some(extent) = extent(kernel, dilation) else { return Dim::Unknown };
        let offset = before.checked_add(after).and_then(|p| p.checked_sub(extent));
        let Some(room) = offset.map(|o| input.offset(o)) else { return Dim::Unknown };
        if !self.ceil {
            return room.floor_div(stride).offset(1);
        }
        // A last window that would start in the padding behind the input does not count. Whether there is one shows from
        // the size, unless the window reaches further than padding and stride.
        let steps = ceil_div(&room, stride);
        let reaches = i64::try_from(stride).ok().and_then(|s| after.checked_add(s)).is_some_and(|r| r <= extent);
        match (&steps, input) {
            _ if reaches => steps.offset(1),
            (Dim::Known(steps), Dim::Known(size)) => {
                let limit = u64::try_from(before).ok().and_then(|b| size.checked_add(b));
                match (steps.checked_mul(stride), limit) {
                    (Some(start), Some(limit)) if start >= limit => Dim::Known(*steps),
                    (Some(_), Some(_)) => Dim::Known(steps.saturating_add(1)),
                    _ => Dim::Unknown,
                }
            }
            _ => Dim::Unknown,
        }
    }

    /// Sizes that a transposed convolution makes along the spatial axes.
    pub fn unslide(&self, input: &[Dim], extra: &[i64]) -> Vec<Dim> {
        input.iter().enumerate().map(|(i, d)| self.unslide_axis(i, d, extra).unwrap_or(Dim::Unknown)).collect()
    }

    fn unslide_axis(&self, i: usize, input: &Dim, extra: &[i64]) -> Option<Dim> {
        let (stride, &(before, after)) = (Dim::Known(*self.strides.get(i)?), self.pads.get(i)?);
        if self.auto == AutoPad::Same {
            return Some(input.mul(&stride));
        }
        // stride * (input - 1) + output_padding + extent - pads
        let steps = input.mul(&stride);
        let constant = extent(self.kernel.get(i)?, *self.dilations.get(i)?)?
            .checked_add(extra.get(i).copied().unwrap_or(0))?
            .checked_sub(before)?
            .checked_sub(after)?
            .checked_sub(stride.signed()?)?;
        Some(steps.offset(constant))
    }
}

/// What a window with gaps covers.
fn extent(kernel: &Dim, dilation: u64) -> Option<i64> {
    let taps = kernel.known()?.checked_sub(1)?;
    i64::try_from(taps.checked_mul(dilation)?.checked_add(1)?).ok()
}

fn ceil_div(a: &Dim, by: u64) -> Dim {
    match a {
        Dim::Known(n) => Dim::Known(n.div_ceil(by)),
        Dim::Symbolic(_) | Dim::Unknown => i64::try_from(by).map_or(Dim::Unknown, |b| a.offset(b - 1).floor_div(by)),
    }
}
