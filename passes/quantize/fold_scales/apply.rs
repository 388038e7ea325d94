//! Multiplying constants by chosen factors.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Numerics, Patch, Tensor, ValueId};

use super::{Absorber, Component, Scales, Signed, Steps, signed::Var};

impl Scales<'_> {
    /// The factor of each element along one axis of a constant, or of all together.
    fn constant_factors(&mut self, constant: ValueId) -> Option<(Steps, Vec<Option<Signed>>)> {
        let span = self.spans.get(&constant)?.clone();
        let dims = self.graph.constant(constant)?.dims();
        let step = |axis: usize, index: usize| {
            let place = span.axes.iter().position(|&a| a == axis);
            place.map_or(0, |p| index * span.sizes.iter().skip(p + 1).product::<usize>())
        };
        let steps =
            dims.iter().enumerate().map(|(axis, &n)| (0..n as usize).map(|i| step(axis, i)).collect()).collect();
        Some((steps, self.chosen(&span)))
    }

    /// Largest size of the elements of a constant for each root that scales it.
    pub(in super::super) fn constant_sizes(&mut self, constant: ValueId, values: &[f64]) -> BTreeMap<Var, (bool, f64)> {
        let mut sizes: BTreeMap<Var, (bool, f64)> = BTreeMap::new();
        let Some((steps, factors)) = self.constant_factors(constant) else { return sizes };
        visit(&[&steps], values.len(), &mut |flat, [at]| {
            if let (Some(Some(s)), Some(w)) = (factors.get(at), values.get(flat)) {
                let size = &mut sizes.entry(s.root).or_insert((s.inverse, 0.0)).1;
                *size = size.max(w.abs());
            }
        });
        sizes
    }

    /// Multiplies what is around a component by its factors. `tensors` holds the constants that were changed before, and
    /// gets those that are changed now. Fails if a number would leave the range of its type.
    pub(in super::super) fn patch(
        &mut self,
        component: &Component,
        factor: &dyn Fn(Var) -> f64,
        note: String,
        tensors: &mut BTreeMap<ValueId, Tensor>,
    ) -> Result<Patch, String> {
        let power = |s: &Option<Signed>| match s {
            Some(s) if component.roots.binary_search(&s.root).is_ok() => {
                let f = factor(s.root);
                if s.inverse { 1.0 / f } else { f }
            }
            _ => 1.0,
        };
        let mut changed: BTreeMap<ValueId, Vec<f64>> = BTreeMap::new();
        let current = |v: ValueId, tensors: &BTreeMap<ValueId, Tensor>| {
            let tensor = tensors.get(&v).or_else(|| self.graph.constant(v));
            tensor.map(|t| t.to_f64().map_err(|e| e.to_string())).unwrap_or_else(|| Err("no constant".into()))
        };
        let absorbers: BTreeSet<usize> = component.readers.iter().chain(&component.producers).copied().collect();
        for a in absorbers.into_iter().filter_map(|i| self.absorbers.get(i)) {
            let mut values = current(a.weight, tensors)?;
            let data: Vec<f64> = a.data.factors.iter().map(&power).collect();
            let result: Vec<f64> = a.result.factors.iter().map(&power).collect();
            a.visit(values.len(), &mut |flat, d, r| {
                if let (Some(w), Some(d), Some(r)) = (values.get_mut(flat), data.get(d), result.get(r)) {
                    *w *= r / d;
                }
            });
            changed.insert(a.weight, values);
        }
        for &v in &component.constants {
            let mut values = current(v, tensors)?;
            let Some((steps, factors)) = self.constant_factors(v) else { continue };
            let factors: Vec<f64> = factors.iter().map(&power).collect();
            visit(&[&steps], values.len(), &mut |flat, [at]| {
                if let (Some(w), Some(f)) = (values.get_mut(flat), factors.get(at)) {
                    *w *= f;
                }
            });
            changed.insert(v, values);
        }
        let mut patch = Patch::new(Numerics::Reassociated, note);
        for (v, values) in changed {
            let Some(old) = tensors.get(&v).or_else(|| self.graph.constant(v)) else { continue };
            let new = scaled(old, &values).map_err(|e| format!("{:?} {e}", self.graph.name_of(v)))?;
            if new != *old {
                patch.set_tensor(v, new.clone());
                tensors.insert(v, new);
            }
        }
        Ok(patch)
    }
}

impl Absorber {
    /// Calls `f` with the place of each element of the weight, and its channels in the data and in the result.
    pub(in super::super) fn visit(&self, elements: usize, f: &mut dyn FnMut(usize, usize, usize)) {
        visit(&[&self.data.steps, &self.result.steps], elements, &mut |flat, [d, r]| f(flat, d, r));
    }
}

/// Calls `f` with the place of each element and the sums of the steps along its axes.
fn visit<const N: usize>(steps: &[&Steps; N], elements: usize, f: &mut dyn FnMut(usize, [usize; N])) {
    let sizes: Vec<usize> = steps.first().map_or(Vec::new(), |s| s.iter().map(Vec::len).collect());
    let at = |n: usize, axis: usize, i: usize| {
        steps.get(n).and_then(|s| s.get(axis)).and_then(|s| s.get(i)).copied().unwrap_or(0)
    };
    let (last, outer) = match sizes.split_last() {
        Some((&n, outer)) => (n.max(1), outer),
        None => (1, [].as_slice()),
    };
    let mut index = vec![0usize; outer.len()];
    let mut flat = 0;
    while flat < elements {
        let base: [usize; N] = std::array::from_fn(|n| index.iter().enumerate().map(|(axis, &i)| at(n, axis, i)).sum());
        for i in 0..last.min(elements - flat) {
            f(flat + i, std::array::from_fn(|n| base.get(n).copied().unwrap_or(0) + at(n, outer.len(), i)));
        }
        flat += last;
        for (i, &size) in index.iter_mut().zip(outer).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
}

/// The numbers as a tensor like another one, if all of them are as precise there as before.
fn scaled(old: &Tensor, values: &[f64]) -> Result<Tensor, String> {
    let new = Tensor::from_f64_as(old.dtype(), old.dims(), values).map_err(|e| e.to_string())?;
    let read = |t: &Tensor| t.to_f64().map_err(|e| e.to_string());
    let (before, after) = (read(old)?, read(&new)?);
    let least = match old.dtype() {
        planish_ir::DType::F16 => 1.0 / 16384.0,
        planish_ir::DType::F64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    let lost = |(b, a): (&f64, &f64)| (!a.is_finite() && b.is_finite()) || (a.abs() < least && b.abs() >= least);
    match before.iter().zip(&after).any(lost) {
        true => Err(format!("would hold numbers that {} cannot", old.dtype())),
        false => Ok(new),
    }
}
