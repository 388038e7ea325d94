//! Activations as rows of a matrix: what a linear layer multiplies its weights with.

use std::borrow::Cow;

use planish_ir::{Attrs, DType, Tensor};

/// How the values that one linear map reads at a time lie in a tensor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// Along one axis, which counts from the end if it is negative: the input of `MatMul`, `Gemm`, or a 1x1 convolution.
    Axis(i64),
    /// In windows: the input of a convolution, `[N, C, spatial...]`.
    Windows(Unfold),
}

/// How a convolution slides over its input. A row is the window of one group of channels: channels first, then the taps in
/// row-major order, as the weights have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unfold {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    groups: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Padding {
    /// Before and after each axis.
    Explicit(Vec<(i64, i64)>),
    /// Such that there are `ceil(size / stride)` windows; the odd one before or after.
    Same { upper: bool },
}

impl Unfold {
    /// Reads the attributes of a `Conv`; `weight` is the dims of its weights, `[M, C / group, kernel...]`. Nothing if they do not
    /// fit each other.
    pub fn of_conv(attrs: &Attrs, weight: &[u64]) -> Option<Unfold> {
        let kernel: Vec<usize> = weight.get(2..)?.iter().map(|&k| usize::try_from(k).ok()).collect::<Option<_>>()?;
        let axes = kernel.len();
        let list = |name: &str| -> Option<Vec<usize>> {
            let Some(values) = attrs.ints(name) else { return Some(vec![1; axes]) };
            let values: Vec<usize> = values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<_>>()?;
            (values.len() == axes && !values.contains(&0)).then_some(values)
        };
        let padding = match attrs.str("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" => Padding::Same { upper: true },
            "SAME_LOWER" => Padding::Same { upper: false },
            "VALID" => Padding::Explicit(vec![(0, 0); axes]),
            _ => Padding::Explicit(match attrs.ints("pads") {
                None => vec![(0, 0); axes],
                Some(pads) if pads.len() == 2 * axes => {
                    let (before, after) = pads.split_at(axes);
                    before.iter().copied().zip(after.iter().copied()).collect()
                }
                Some(_) => return None,
            }),
        };
        let groups = usize::try_from(attrs.int("group").unwrap_or(1)).ok().filter(|&g| g > 0)?;
        Some(Unfold { strides: list("strides")?, dilations: list("dilations")?, kernel, padding, groups })
    }

    /// Groups of channels, each with rows of its own.
    pub const fn groups(&self) -> usize {
        self.groups
    }

    /// Where windows begin along an axis of this size, and how many there are.
    fn positions(&self, axis: usize, size: usize) -> Option<(i64, usize)> {
        let (kernel, stride) = (*self.kernel.get(axis)?, *self.strides.get(axis)?);
        let extent = kernel.checked_sub(1)?.checked_mul(*self.dilations.get(axis)?)?.checked_add(1)?;
        let (before, total) = match &self.padding {
            Padding::Explicit(pads) => {
                let &(before, after) = pads.get(axis)?;
                (before, i64::try_from(size).ok()?.checked_add(before)?.checked_add(after)?)
            }
            Padding::Same { upper } => {
                let wanted = size.div_ceil(stride);
                let covered = wanted.saturating_sub(1).checked_mul(stride)?.checked_add(extent)?;
                let missing = covered.saturating_sub(size);
                let before = if *upper { missing / 2 } else { missing.div_ceil(2) };
                (i64::try_from(before).ok()?, i64::try_from(size.checked_add(missing)?).ok()?)
            }
        };
        let room = total.checked_sub(i64::try_from(extent).ok()?)?;
        let count = if room < 0 { 0 } else { usize::try_from(room).ok()? / stride + 1 };
        Some((before, count))
    }
}

/// Elements of a floating tensor of 16 to 64 bits, as float32.
pub(super) fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>, String> {
    match tensor.dtype() {
        DType::F32 => tensor.as_f32().map_err(|e| e.to_string()),
        _ => tensor.to_f64().map(|v| Cow::Owned(v.into_iter().map(|x| x as f32).collect())).map_err(|e| e.to_string()),
    }
}

impl Rows {
    /// Groups of channels, each with rows of its own.
    pub const fn groups(&self) -> usize {
        match self {
            Rows::Axis(_) => 1,
            Rows::Windows(unfold) => unfold.groups,
        }
    }

    /// Hands out the rows of a tensor, at most `chunk` of them at a time, row-major, with the group that they belong to. Every
    /// row has `width` values. Fails if the tensor has not such rows.
    pub(crate) fn each(
        &self,
        tensor: &Tensor,
        width: usize,
        chunk: usize,
        mut take: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), String> {
        let values = floats(tensor)?;
        let dims: Option<Vec<usize>> = tensor.dims().iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims.ok_or("the tensor is too large")?;
        match self {
            Rows::Axis(axis) => {
                let axis = planish_ir::infer::axis(*axis, dims.len())?;
                let inner: usize = dims.iter().skip(axis + 1).product();
                let size = dims.get(axis).copied().unwrap_or(0);
                if size != width {
                    return Err(format!("its rows have {size} values, and {width} were expected"));
                }
                along_axis(&values, width, inner, chunk, |rows| take(0, rows));
                Ok(())
            }
            Rows::Windows(unfold) => {
                let fits = unfold.each(&values, &dims, width, chunk, &mut take);
                fits.ok_or_else(|| format!("windows of {width} values do not fit its dims {:?}", tensor.dims()))
            }
        }
    }
}

fn along_axis(values: &[f32], width: usize, inner: usize, chunk: usize, mut take: impl FnMut(&mut [f32])) {
    if width == 0 || inner == 0 || chunk == 0 {
        return;
    }
    if inner == 1 {
        let mut rows = Vec::with_capacity(values.len().min(width * chunk));
        for block in values.chunks(width * chunk) {
            rows.clear();
            rows.extend_from_slice(block);
            take(&mut rows);
        }
        return;
    }
    let mut rows = Vec::with_capacity(width * chunk.min(inner));
    for block in values.chunks(width * inner) {
        for start in (0..inner).step_by(chunk) {
            rows.clear();
            for i in start..inner.min(start + chunk) {
                rows.extend(block.iter().skip(i).step_by(inner));
            }
            take(&mut rows);
        }
    }
}

impl Unfold {
    fn each(
        &self,
        values: &[f32],
        dims: &[usize],
        width: usize,
        chunk: usize,
        take: &mut impl FnMut(usize, &mut [f32]),
    ) -> Option<()> {
        let (&[batch, channels], spatial) = dims.split_first_chunk::<2>()?;
        if spatial.len() != self.kernel.len() || !channels.is_multiple_of(self.groups) || chunk == 0 {
            return None;
        }
        let per_group = channels / self.groups;
        let taps = self.taps()?;
        if per_group.checked_mul(taps.len())? != width {
            return None;
        }
        let plane: usize = spatial.iter().product();
        let starts: Vec<(i64, usize)> =
            spatial.iter().enumerate().map(|(axis, &size)| self.positions(axis, size)).collect::<Option<_>>()?;
        let windows = starts.iter().try_fold(1usize, |n, s| n.checked_mul(s.1))?;
        if plane == 0 || width == 0 {
            return Some(());
        }
        let mut rows = Vec::with_capacity(width * chunk.min(windows));
        let mut offsets = vec![None; taps.len()];
        for n in 0..batch {
            for group in 0..self.groups {
                let first = (n * channels + group * per_group) * plane;
                let planes = values.get(first..first + per_group * plane)?;
                rows.clear();
                for window in 0..windows {
                    self.offsets(window, spatial, &starts, &taps, &mut offsets);
                    for plane in planes.chunks(plane) {
                        let value = |o: &Option<usize>| o.and_then(|o| plane.get(o)).copied().unwrap_or(0.0);
                        rows.extend(offsets.iter().map(value));
                    }
                    if rows.len() >= width * chunk || window + 1 == windows {
                        take(group, &mut rows);
                        rows.clear();
                    }
                }
            }
        }
        Some(())
    }

    /// Coordinates of the taps in a window, in row-major order.
    fn taps(&self) -> Option<Vec<Vec<usize>>> {
        let count = self.kernel.iter().try_fold(1usize, |n, &k| n.checked_mul(k))?;
        let tap = |mut index: usize| {
            let mut at = vec![0; self.kernel.len()];
            for (axis, (&k, &d)) in self.kernel.iter().zip(&self.dilations).enumerate().rev() {
                if let Some(at) = at.get_mut(axis) {
                    *at = (index % k) * d;
                }
                index /= k;
            }
            at
        };
        Some((0..count).map(tap).collect())
    }

    /// Where the taps of a window lie in a plane; nowhere in the padding.
    fn offsets(
        &self,
        mut window: usize,
        spatial: &[usize],
        starts: &[(i64, usize)],
        taps: &[Vec<usize>],
        offsets: &mut [Option<usize>],
    ) {
        let mut corner = vec![0i64; spatial.len()];
        for (axis, (&(before, count), &stride)) in starts.iter().zip(&self.strides).enumerate().rev() {
            if let Some(corner) = corner.get_mut(axis) {
                *corner = i64::try_from((window % count) * stride).unwrap_or(i64::MAX).saturating_sub(before);
            }
            window /= count;
        }
        for (tap, offset) in taps.iter().zip(offsets) {
            *offset = tap.iter().zip(&corner).zip(spatial).try_fold(0usize, |offset, ((&tap, &corner), &size)| {
                let at = usize::try_from(corner.checked_add(i64::try_from(tap).ok()?)?).ok().filter(|&at| at < size)?;
                Some(offset * size + at)
            });
        }
    }
}
