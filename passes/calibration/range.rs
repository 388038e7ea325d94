//! Ranges and moments of activations.

use planish_ir::Tensor;

use super::{Reader, Record, Statistic};

/// Smallest and largest value, of a whole tensor or of each channel of an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// The axis of the channels, counted from the end if negative; `None` for the whole tensor.
    axis: Option<i64>,
    channels: Vec<Moments>,
    non_finite: u64,
}

/// What is known of the numbers of one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Smallest finite one; infinity if there is none.
    pub min: f32,
    /// Largest finite one; minus infinity if there is none.
    pub max: f32,
    /// Sum of the finite ones.
    pub sum: f64,
    /// Sum of their magnitudes.
    pub abs_sum: f64,
    /// Sum of their squares.
    pub square_sum: f64,
    /// How many finite ones there are.
    pub count: u64,
}

impl Moments {
    const EMPTY: Moments =
        Moments { min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, abs_sum: 0.0, square_sum: 0.0, count: 0 };

    fn add(&mut self, x: f32) {
        let wide = f64::from(x);
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        self.sum += wide;
        self.abs_sum += wide.abs();
        self.square_sum += wide * wide;
        self.count += 1;
    }

    fn merge(&mut self, other: &Moments) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.abs_sum += other.abs_sum;
        self.square_sum += other.square_sum;
        self.count += other.count;
    }

    /// Largest magnitude; 0 if there is no number.
    pub fn max_abs(&self) -> f32 {
        if self.count == 0 { 0.0 } else { self.max.max(-self.min) }
    }

    /// Mean of the magnitudes; 0 if there is no number.
    pub fn mean_abs(&self) -> f64 {
        self.abs_sum / self.count.max(1) as f64
    }

    /// Mean; 0 if there is no number.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

impl Range {
    /// Of a whole tensor.
    pub const fn per_tensor() -> Range {
        Range { axis: None, channels: Vec::new(), non_finite: 0 }
    }

    /// Of each channel of an axis, which counts from the end if it is negative. The number of channels has to be the same in all
    /// samples.
    pub const fn per_channel(axis: i64) -> Range {
        Range { axis: Some(axis), channels: Vec::new(), non_finite: 0 }
    }

    /// One entry per channel, or one in all. Empty if no sample was added.
    pub fn channels(&self) -> &[Moments] {
        &self.channels
    }

    /// All channels together.
    pub fn all(&self) -> Moments {
        let mut all = Moments::EMPTY;
        self.channels.iter().for_each(|c| all.merge(c));
        all
    }

    /// How many numbers were NaN or infinite, and left out.
    pub const fn non_finite(&self) -> u64 {
        self.non_finite
    }
}

impl Statistic for Range {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let &[tensor] = tensors else { return Err("a range is of one value".to_owned()) };
        let (channels, inner) = match self.axis {
            None => (1, 1),
            Some(axis) => {
                let axis = planish_ir::infer::axis(axis, tensor.rank())?;
                let dims = tensor.dims();
                let after = dims.get(axis + 1..).unwrap_or_default();
                (dims.get(axis).copied().unwrap_or(1), after.iter().product::<u64>())
            }
        };
        let (channels, inner) = (usize::try_from(channels), usize::try_from(inner));
        let (Ok(channels), Ok(inner)) = (channels, inner) else { return Err("the tensor is too large".to_owned()) };
        if self.channels.is_empty() {
            self.channels = vec![Moments::EMPTY; channels];
        }
        if self.channels.len() != channels {
            return Err(format!("it has {channels} channels on one sample and {} on another", self.channels.len()));
        }
        if channels == 0 || inner == 0 {
            return Ok(());
        }
        let values = super::rows::floats(tensor)?;
        for (row, values) in values.chunks(inner).enumerate() {
            let Some(channel) = self.channels.get_mut(row % channels) else { continue };
            for &x in values {
                if x.is_finite() { channel.add(x) } else { self.non_finite += 1 }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        // Channels are few beside what they are made of.
        (self.channels.len().max(1) * size_of::<Moments>()) as u64
    }

    fn identity(&self) -> Option<String> {
        Some(format!("range along {:?}", self.axis))
    }

    fn save(&self) -> Vec<u8> {
        let begun = Record::new().number(self.non_finite).number(self.channels.len() as u64);
        let add = |r: Record, m: &Moments| {
            let Moments { min, max, sum, abs_sum, square_sum, count } = *m;
            let floats = [f64::from(min), f64::from(max), sum, abs_sum, square_sum];
            floats.into_iter().fold(r, Record::float).number(count)
        };
        self.channels.iter().fold(begun, add).bytes()
    }

    fn restore(&self, record: &[u8]) -> Result<Range, String> {
        let mut r = Reader::new(record);
        let non_finite = r.number()?;
        let mut channels = Vec::new();
        for _ in 0..r.count()? {
            channels.push(Moments {
                min: r.float()? as f32,
                max: r.float()? as f32,
                sum: r.float()?,
                abs_sum: r.float()?,
                square_sum: r.float()?,
                count: r.number()?,
            });
        }
        r.end()?;
        Ok(Range { axis: self.axis, channels, non_finite })
    }
}
