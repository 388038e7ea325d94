//! Linear layers: nodes that multiply an activation by constant weights, seen as matrices.

use faer::Mat;
use planish_ir::{DType, Graph, Node, NodeId, Patch, Tensor, TensorError, ValueId, op};

use crate::calibration::{Rows, Unfold};

/// A node that computes `W x + b` for each row `x` of its input, in groups of channels if it is such a convolution.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The node.
    pub node: NodeId,
    /// What it reads.
    pub input: ValueId,
    /// Its weights.
    pub weight: ValueId,
    /// How rows lie in the input.
    pub rows: Rows,
    /// Axis of the input that the channels are on, counted from the end.
    pub channel_axis: i64,
    /// Places of a row that one channel takes: the taps of a window.
    pub taps: usize,
    /// How the weights are stored.
    form: Form,
    /// Where a constant can be added to the output.
    pub bias: Bias,
}

/// Where a constant per output can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It is there: a constant vector with one element per output that nobody else reads.
    Constant(ValueId),
    /// The operator has an input for it, which is left out.
    Absent(usize),
    /// Nowhere.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `[out, in…]`, with groups of outputs behind each other.
    OutIn { groups: usize },
    /// `[in, out…]`.
    InOut,
}

impl Linear {
    /// The linear layer that a node is. None for other operators, for weights that are no constants, and for forms that have no
    /// such matrix.
    pub fn of(graph: &Graph, id: NodeId) -> Option<Linear> {
        let node = graph.node(id)?;
        op::of(node)?;
        let weight = node.input(1)?;
        let tensor = graph.constant(weight)?;
        let (rows, channel_axis, taps, form) = match node.op.name.as_str() {
            "MatMul" if node.op.domain.is_empty() && tensor.rank() == 2 => (Rows::Axis(-1), -1, 1, Form::InOut),
            "Gemm" if node.op.domain.is_empty() && tensor.rank() == 2 => {
                let axis = if node.attrs.int("transA") == Some(1) { -2 } else { -1 };
                let form = if node.attrs.int("transB") == Some(1) { Form::OutIn { groups: 1 } } else { Form::InOut };
                (Rows::Axis(axis), axis, 1, form)
            }
            "Conv" if node.op.domain.is_empty() => {
                let unfold = Unfold::of_conv(&node.attrs, tensor.dims())?;
                let taps = product(tensor.dims().get(2..)?)?;
                let axis = 1 - i64::try_from(tensor.rank()).ok()?;
                let groups = unfold.groups();
                let rows =
                    if taps == 1 && groups == 1 && is_plain(node) { Rows::Axis(axis) } else { Rows::Windows(unfold) };
                (rows, axis, taps, Form::OutIn { groups })
            }
            _ => return None,
        };
        let linear = Linear {
            node: id,
            input: node.input(0)?,
            weight,
            rows,
            channel_axis,
            taps,
            form,
            bias: bias(graph, node, form, tensor),
        };
        // Nothing to refit in what has no elements.
        (tensor.elements() > 0 && linear.width(tensor)? > 0).then_some(linear)
    }

    /// Groups of channels, each with a matrix of its own.
    pub const fn groups(&self) -> usize {
        match self.form {
            Form::OutIn { groups } => groups,
            Form::InOut => 1,
        }
    }

    /// True if both read their weights as the same matrices.
    pub fn has_layout_of(&self, other: &Linear) -> bool {
        self.form == other.form
    }

    /// True if the weights are stored with the outputs first.
    pub const fn is_out_in(&self) -> bool {
        matches!(self.form, Form::OutIn { .. })
    }

    /// Values in a row.
    pub fn width(&self, weight: &Tensor) -> Option<usize> {
        match self.form {
            Form::OutIn { .. } => product(weight.dims().get(1..)?),
            Form::InOut => usize::try_from(*weight.dims().first()?).ok(),
        }
    }

    /// The matrices of the groups, `outputs x width` each.
    pub fn matrices(&self, weight: &Tensor) -> Result<Vec<Mat<f64>>, TensorError> {
        let values = weight.to_f64()?;
        let width = self.width(weight).unwrap_or(0).max(1);
        let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
        Ok(match self.form {
            Form::OutIn { groups } => {
                let outputs = values.len() / width / groups.max(1);
                let group = |g: usize| Mat::from_fn(outputs, width, |o, i| at((g * outputs + o) * width + i));
                (0..groups).map(group).collect()
            }
            Form::InOut => {
                let outputs = values.len() / width;
                vec![Mat::from_fn(outputs, width, |o, i| at(i * outputs + o))]
            }
        })
    }

    /// Adds a number to each output. The layer must have a place for it.
    pub(crate) fn shift_bias(&self, graph: &Graph, patch: &mut Patch, shift: &[f64]) -> Result<(), TensorError> {
        let old = self.biases(graph)?;
        let at = |o: usize| old.get(o).copied().unwrap_or(0.0);
        self.set_bias(graph, patch, &shift.iter().enumerate().map(|(o, s)| at(o) + s).collect::<Vec<f64>>())
    }

    /// The biases of the layer; nothing if it has none.
    pub(crate) fn biases(&self, graph: &Graph) -> Result<Vec<f64>, TensorError> {
        match self.bias {
            Bias::Constant(bias) => Ok(graph.constant(bias).map(Tensor::to_f64).transpose()?.unwrap_or_default()),
            Bias::Absent(_) | Bias::None => Ok(Vec::new()),
        }
    }

    /// Gives the layer these biases, if it has a place for them.
    pub(crate) fn set_bias(&self, graph: &Graph, patch: &mut Patch, values: &[f64]) -> Result<(), TensorError> {
        match self.bias {
            Bias::Constant(bias) => {
                let Some(old) = graph.constant(bias) else { return Ok(()) };
                patch.set_tensor(bias, Tensor::from_f64_as(old.dtype(), old.dims(), values)?);
            }
            Bias::Absent(slot) => {
                let Some(weight) = graph.constant(self.weight) else { return Ok(()) };
                let tensor = Tensor::from_f64_as(weight.dtype(), [values.len() as u64].as_slice(), values)?;
                let constant = patch.constant(format!("{}_bias", graph.name_of(self.weight)), tensor);
                patch.set_input(self.node, slot, Some(constant));
            }
            Bias::None => {}
        }
        Ok(())
    }

    /// The weights with those matrices, in the type and shape of `like`.
    pub fn tensor(&self, matrices: &[Mat<f64>], like: &Tensor) -> Result<Tensor, TensorError> {
        self.tensor_of(matrices, like.dtype(), like.dims())
    }

    /// Weights of another shape with those matrices, stored as these are: outputs first or last.
    pub fn tensor_of(&self, matrices: &[Mat<f64>], dtype: DType, dims: &[u64]) -> Result<Tensor, TensorError> {
        let mut values = Vec::new();
        for m in matrices {
            match self.form {
                Form::OutIn { .. } => {
                    for o in 0..m.nrows() {
                        values.extend((0..m.ncols()).map(|i| m[(o, i)]));
                    }
                }
                Form::InOut => {
                    for i in 0..m.ncols() {
                        values.extend((0..m.nrows()).map(|o| m[(o, i)]));
                    }
                }
            }
        }
        Tensor::from_f64_as(dtype, dims, &values)
    }
}

/// True if a convolution with a window of one place reads every place once.
fn is_plain(node: &Node) -> bool {
    let is = |name: &str, n: i64| node.attrs.ints(name).is_none_or(|v| v.iter().all(|&x| x == n));
    is("strides", 1) && is("pads", 0)
}

fn product(dims: &[u64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
}

/// Where a bias of a layer is, or could be.
fn bias(graph: &Graph, node: &Node, form: Form, weight: &Tensor) -> Bias {
    let outputs = match form {
        Form::OutIn { .. } => weight.dims().first(),
        Form::InOut => weight.dims().get(1),
    };
    let is_vector = |v: ValueId| {
        let fits = |t: &Tensor| t.dims().last() == outputs && Some(&t.elements()) == outputs;
        graph.constant(v).is_some_and(fits) && graph.only_user(v).is_some()
    };
    match (node.op.name.as_str(), node.input(2)) {
        // A scaled product and a bias beside it would have to be brought to one scale first.
        ("Gemm", _) if ["alpha", "beta"].iter().any(|n| node.attrs.float(n).is_some_and(|x| x != 1.0)) => Bias::None,
        ("Gemm" | "Conv", None) => Bias::Absent(2),
        ("Gemm" | "Conv", Some(b)) if is_vector(b) => Bias::Constant(b),
        ("MatMul", _) => {
            let behind = node.output(0).and_then(|y| Some((y, graph.only_user(y)?)));
            let Some((y, (_, add, _))) = behind.filter(|(_, (_, n, _))| n.op.is("Add")) else { return Bias::None };
            let other = add.inputs().iter().flatten().copied().find(|&v| v != y);
            other.filter(|&v| is_vector(v)).map_or(Bias::None, Bias::Constant)
        }
        _ => Bias::None,
    }
}
