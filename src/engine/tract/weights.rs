//! Large weights, handed to tract without a second copy.
//!
//! tract copies every weight out of the message, and decoding the message copies it into the message first. So the
//! message that tract decodes names the weights as external data, and [`Weights`] plays the file system: the "file" is
//! the root folder, which exists everywhere (tract insists that the path does), and the offset is the number of the
//! weight.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use planish_proto::onnx::{GraphProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use tract_onnx::{data_resolver::ModelDataResolver, prelude::TractResult};

/// The folder that the weights pretend to be in.
pub(super) const FOLDER: &str = "/";
/// Smaller ones may as well be copied.
const THRESHOLD: usize = 1024;

/// Bytes of weights by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights(Arc<[Bytes]>);

impl Weights {
    /// Takes the large weights out of a graph and its subgraphs.
    pub(super) fn take(graph: &mut GraphProto) -> Weights {
        let mut taken = Vec::new();
        take(graph, &mut taken);
        Weights(taken.into())
    }
}

fn take(graph: &mut GraphProto, taken: &mut Vec<Bytes>) {
    for tensor in &mut graph.initializer {
        if let Some(bytes) = tensor.raw_data.take_if(|b| b.len() >= THRESHOLD) {
            refer(tensor, taken.len());
            taken.push(bytes);
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|g| take(g, taken));
    }
}

fn refer(tensor: &mut TensorProto, number: usize) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.external_data = vec![entry("location", ".".into()), entry("offset", number.to_string())];
    tensor.data_location = Some(DataLocation::External.into());
}

impl ModelDataResolver for Weights {
    fn read_bytes_from_path(&self, buf: &mut Vec<u8>, _: &Path, number: usize, _: Option<usize>) -> TractResult<()> {
        buf.extend_from_slice(self.0.get(number).context("there is no weight of this number")?);
        Ok(())
    }
}
