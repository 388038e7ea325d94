//! What the outputs of a quantized model are compared by.

use std::collections::BTreeSet;

use planish_ir::{Model, Tensor};

use super::bound::{Bound, Compared, Figures};
use crate::{
    Calibration, PassError,
    reconstruct::{Held, computed_outputs},
    squashed::{self, Output},
};

/// The outputs that a model computes, and what there is before a squashing function at their ends.
pub(crate) struct Judged(Vec<Output>);

impl Judged {
    pub(crate) fn of(model: &Model) -> Judged {
        let output = |name: String| Output { before: squashed::before(model, &name), name };
        Judged(computed_outputs(model).into_iter().map(output).collect())
    }

    /// Without what another model has no more before the end of an output.
    pub(crate) fn kept_in(mut self, model: &Model) -> Judged {
        for output in &mut self.0 {
            output.before = output.before.take().filter(|b| model.graph.value_named(&b.name).is_some());
        }
        self
    }

    /// Names of the values that are compared.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.0.iter().flat_map(|o| o.before.iter().map(|b| &b.name).chain([&o.name]).cloned());
        names.collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// Of a model beside the one that the samples were held of, by those names.
    pub(crate) fn figures(
        &self,
        bound: &Bound,
        held: &Held,
        model: &Model,
        calibration: &Calibration<'_>,
    ) -> Result<Figures, PassError> {
        let before = self.0.iter().filter_map(|o| o.before.as_ref());
        let is_centred = |name: &str| before.clone().any(|b| b.is_centred && b.name == name);
        let view = |name: &str, t: &Tensor| if is_centred(name) { squashed::centred(t) } else { None };
        let compared = held.compare(model, calibration, view)?;
        Ok(bound.judge(self.0.iter().filter_map(|o| {
            let before = o.before.as_ref().and_then(|b| compared.get(&b.name)?.as_ref().ok());
            Some(Compared { name: &o.name, output: compared.get(&o.name)?.as_ref(), before })
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn rows_are_compared_before_a_softmax_without_their_mean() {
        let t = Tensor::from_f32([2, 2].as_slice(), &[1.0, 3.0, -5.0, -5.0]).unwrap();
        assert_eq!(squashed::centred(&t).unwrap().to_f64().unwrap(), [-1.0, 1.0, 0.0, 0.0]);
        let model = parse(
            r#"<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x) => (float[N,2] y, float[N,2] z, float[N,2] r) {
                h = Abs (x)  y = Softmax (h)  z = Sigmoid (h)  r = Relu (h)
            }"#,
        );
        let found = Judged::of(&model).0;
        let before = |o: &Output| o.before.as_ref().map(|b| (b.name.clone(), b.is_centred));
        let found: Vec<_> = found.iter().map(|o| (o.name.as_str(), before(o))).collect();
        assert_eq!(found, [("y", Some(("h".to_owned(), true))), ("z", Some(("h".to_owned(), false))), ("r", None)]);
    }
}
