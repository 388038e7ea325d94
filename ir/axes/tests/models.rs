//! Classes of real models, of which those are listed that nothing blocks.

use std::path::Path;

use super::is_weight;
use crate::{
    Model,
    axes::{Class, classes},
    infer::{Bindings, infer},
    onnx,
};

fn open(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models").join(name);
    let loaded = planish_proto::open(path).unwrap();
    onnx::import(loaded.model, &|t| Ok(loaded.sources.external(t)?)).unwrap()
}

/// Free classes with a weight in them, of which only weights are listed, and the number of all others.
fn free(m: &Model) -> String {
    let found = classes(m, &infer(m, &Bindings::new()));
    let weighs = |c: &Class| c.members.iter().any(|member| is_weight(m, member));
    let text = found.show(m, |c| c.blocks.is_empty() && weighs(c), |member| is_weight(m, member));
    let blocked = found.all().iter().filter(|c| weighs(c) && !c.blocks.is_empty()).count();
    format!("{text}and {blocked} that are blocked\n")
}

#[test]
fn mnist_cnn() {
    insta::assert_snapshot!(free(&open("mnist_cnn.onnx")), @r#"
    32: net.0.weight@0, net.0.bias@0, net.1.weight@0, net.1.bias@0, net.1.running_mean@0, net.1.running_var@0, net.4.c1.weight@1, net.4.c2.weight@0, net.4.b2.weight@0, net.4.b2.bias@0, net.4.b2.running_mean@0, net.4.b2.running_var@0, net.5.weight@1; summed by "/net/net.4/c1/Conv", "/net/net.5/Conv"
    32: net.4.c1.weight@0, net.4.b1.weight@0, net.4.b1.bias@0, net.4.b1.running_mean@0, net.4.b1.running_var@0, net.4.c2.weight@1; summed by "/net/net.4/c2/Conv"
    64: net.5.weight@0, net.6.weight@0, net.6.bias@0, net.6.running_mean@0, net.6.running_var@0, net.8.c1.weight@1, net.8.c2.weight@0, net.8.b2.weight@0, net.8.b2.bias@0, net.8.b2.running_mean@0, net.8.b2.running_var@0, net.9.c1.weight@1, net.9.c2.weight@0, net.9.b2.weight@0, net.9.b2.bias@0, net.9.b2.running_mean@0, net.9.b2.running_var@0, net.10.net.0.weight@1; summed by "/net/net.8/c1/Conv", "/net/net.9/c1/Conv", "/net/net.10/net/net.0/Conv"
    64: net.8.c1.weight@0, net.8.b1.weight@0, net.8.b1.bias@0, net.8.b1.running_mean@0, net.8.b1.running_var@0, net.8.c2.weight@1; summed by "/net/net.8/c2/Conv"
    64: net.9.c1.weight@0, net.9.b1.weight@0, net.9.b1.bias@0, net.9.b1.running_mean@0, net.9.b1.running_var@0, net.9.c2.weight@1; summed by "/net/net.9/c2/Conv"
    192: net.10.net.0.weight@0, net.10.net.1.weight@0, net.10.net.1.bias@0, net.10.net.1.running_mean@0, net.10.net.1.running_var@0, net.10.net.3.weight@0, net.10.net.4.weight@0, net.10.net.4.bias@0, net.10.net.4.running_mean@0, net.10.net.4.running_var@0, net.10.net.6.down.weight@1, net.10.net.6.up.weight@0, net.10.net.6.up.bias@0, net.10.net.7.weight@1; summed by "/net/net.10/net/net.6/down/Conv", "/net/net.10/net/net.7/Conv"
    48: net.10.net.6.down.weight@0, net.10.net.6.down.bias@0, net.10.net.6.up.weight@1; summed by "/net/net.10/net/net.6/up/Conv"
    96: net.10.net.7.weight@0, net.10.net.8.weight@0, net.10.net.8.bias@0, net.10.net.8.running_mean@0, net.10.net.8.running_var@0, net.11.net.0.weight@1, net.11.net.7.weight@0, net.11.net.8.weight@0, net.11.net.8.bias@0, net.11.net.8.running_mean@0, net.11.net.8.running_var@0, net.14.weight@1; summed by "/net/net.11/net/net.0/Conv", "/net/net.14/Gemm"
    288: net.11.net.0.weight@0, net.11.net.1.weight@0, net.11.net.1.bias@0, net.11.net.1.running_mean@0, net.11.net.1.running_var@0, net.11.net.3.weight@0, net.11.net.4.weight@0, net.11.net.4.bias@0, net.11.net.4.running_mean@0, net.11.net.4.running_var@0, net.11.net.6.down.weight@1, net.11.net.6.up.weight@0, net.11.net.6.up.bias@0, net.11.net.7.weight@1; summed by "/net/net.11/net/net.6/down/Conv", "/net/net.11/net/net.7/Conv"
    72: net.11.net.6.down.weight@0, net.11.net.6.down.bias@0, net.11.net.6.up.weight@1; summed by "/net/net.11/net/net.6/up/Conv"
    256: net.14.weight@0, net.14.bias@0, net.17.weight@1; summed by "/net/net.17/Gemm"
    and 21 that are blocked
    "#);
}

#[test]
fn mnist_vit() {
    insta::assert_snapshot!(free(&open("mnist_vit.onnx")), @r#"
    96: cls@2, pos@2, patch.weight@0, patch.bias@0, blocks.0.n1.weight@0, blocks.0.n1.bias@0, blocks.0.a.out.bias@0, blocks.0.n2.weight@0, blocks.0.n2.bias@0, blocks.0.mlp.2.bias@0, blocks.1.n1.weight@0, blocks.1.n1.bias@0, blocks.1.a.out.bias@0, blocks.1.n2.weight@0, blocks.1.n2.bias@0, blocks.1.mlp.2.bias@0, blocks.2.n1.weight@0, blocks.2.n1.bias@0, blocks.2.a.out.bias@0, blocks.2.n2.weight@0, blocks.2.n2.bias@0, blocks.2.mlp.2.bias@0, blocks.3.n1.weight@0, blocks.3.n1.bias@0, blocks.3.a.out.bias@0, blocks.3.n2.weight@0, blocks.3.n2.bias@0, blocks.3.mlp.2.bias@0, blocks.4.n1.weight@0, blocks.4.n1.bias@0, blocks.4.a.out.bias@0, blocks.4.n2.weight@0, blocks.4.n2.bias@0, blocks.4.mlp.2.bias@0, blocks.5.n1.weight@0, blocks.5.n1.bias@0, blocks.5.a.out.bias@0, blocks.5.n2.weight@0, blocks.5.n2.bias@0, blocks.5.mlp.2.bias@0, norm.weight@0, norm.bias@0, head.weight@1, onnx::MatMul_583@0, onnx::MatMul_586@1, onnx::MatMul_587@0, onnx::MatMul_588@1, onnx::MatMul_589@0, onnx::MatMul_592@1, onnx::MatMul_593@0, onnx::MatMul_594@1, onnx::MatMul_595@0, onnx::MatMul_598@1, onnx::MatMul_599@0, onnx::MatMul_600@1, onnx::MatMul_601@0, onnx::MatMul_604@1, onnx::MatMul_605@0, onnx::MatMul_606@1, onnx::MatMul_607@0, onnx::MatMul_610@1, onnx::MatMul_611@0, onnx::MatMul_612@1, onnx::MatMul_613@0, onnx::MatMul_616@1, onnx::MatMul_617@0, onnx::MatMul_618@1; summed by "/blocks/blocks.0/a/qkv/MatMul", "/blocks/blocks.0/mlp/mlp.0/MatMul", "/blocks/blocks.1/a/qkv/MatMul", "/blocks/blocks.1/mlp/mlp.0/MatMul", "/blocks/blocks.2/a/qkv/MatMul", "/blocks/blocks.2/mlp/mlp.0/MatMul", "/blocks/blocks.3/a/qkv/MatMul", "/blocks/blocks.3/mlp/mlp.0/MatMul", "/blocks/blocks.4/a/qkv/MatMul", "/blocks/blocks.4/mlp/mlp.0/MatMul", "/blocks/blocks.5/a/qkv/MatMul", "/blocks/blocks.5/mlp/mlp.0/MatMul", "/head/Gemm"; mixed by "/Shape", "/Shape_1", "/blocks/blocks.0/n1/LayerNormalization", "/blocks/blocks.0/a/Shape", "/blocks/blocks.0/a/Shape_1", "/blocks/blocks.0/a/Shape_2", "/blocks/blocks.0/n2/LayerNormalization", "/blocks/blocks.1/n1/LayerNormalization", "/blocks/blocks.1/a/Shape", "/blocks/blocks.1/a/Shape_1", "/blocks/blocks.1/a/Shape_2", "/blocks/blocks.1/n2/LayerNormalization", "/blocks/blocks.2/n1/LayerNormalization", "/blocks/blocks.2/a/Shape", "/blocks/blocks.2/a/Shape_1", "/blocks/blocks.2/a/Shape_2", "/blocks/blocks.2/n2/LayerNormalization", "/blocks/blocks.3/n1/LayerNormalization", "/blocks/blocks.3/a/Shape", "/blocks/blocks.3/a/Shape_1", "/blocks/blocks.3/a/Shape_2", "/blocks/blocks.3/n2/LayerNormalization", "/blocks/blocks.4/n1/LayerNormalization", "/blocks/blocks.4/a/Shape", "/blocks/blocks.4/a/Shape_1", "/blocks/blocks.4/a/Shape_2", "/blocks/blocks.4/n2/LayerNormalization", "/blocks/blocks.5/n1/LayerNormalization", "/blocks/blocks.5/a/Shape", "/blocks/blocks.5/a/Shape_1", "/blocks/blocks.5/a/Shape_2", "/blocks/blocks.5/n2/LayerNormalization", "/norm/LayerNormalization"
    4: blocks.0.a.qkv.bias@0*24x3/96, onnx::MatMul_583@1*24x3/96, onnx::MatMul_586@0*24; summed by "/blocks/blocks.0/a/out/MatMul"
    24: blocks.0.a.qkv.bias@0x12/24, onnx::MatMul_583@1x12/24, onnx::MatMul_586@0x4/24; summed by "/blocks/blocks.0/a/MatMul", "/blocks/blocks.0/a/out/MatMul"
    384: blocks.0.mlp.0.bias@0, onnx::MatMul_587@1, onnx::MatMul_588@0; summed by "/blocks/blocks.0/mlp/mlp.2/MatMul"
    4: blocks.1.a.qkv.bias@0*24x3/96, onnx::MatMul_589@1*24x3/96, onnx::MatMul_592@0*24; summed by "/blocks/blocks.1/a/out/MatMul"
    24: blocks.1.a.qkv.bias@0x12/24, onnx::MatMul_589@1x12/24, onnx::MatMul_592@0x4/24; summed by "/blocks/blocks.1/a/MatMul", "/blocks/blocks.1/a/out/MatMul"
    384: blocks.1.mlp.0.bias@0, onnx::MatMul_593@1, onnx::MatMul_594@0; summed by "/blocks/blocks.1/mlp/mlp.2/MatMul"
    4: blocks.2.a.qkv.bias@0*24x3/96, onnx::MatMul_595@1*24x3/96, onnx::MatMul_598@0*24; summed by "/blocks/blocks.2/a/out/MatMul"
    24: blocks.2.a.qkv.bias@0x12/24, onnx::MatMul_595@1x12/24, onnx::MatMul_598@0x4/24; summed by "/blocks/blocks.2/a/MatMul", "/blocks/blocks.2/a/out/MatMul"
    384: blocks.2.mlp.0.bias@0, onnx::MatMul_599@1, onnx::MatMul_600@0; summed by "/blocks/blocks.2/mlp/mlp.2/MatMul"
    4: blocks.3.a.qkv.bias@0*24x3/96, onnx::MatMul_601@1*24x3/96, onnx::MatMul_604@0*24; summed by "/blocks/blocks.3/a/out/MatMul"
    24: blocks.3.a.qkv.bias@0x12/24, onnx::MatMul_601@1x12/24, onnx::MatMul_604@0x4/24; summed by "/blocks/blocks.3/a/MatMul", "/blocks/blocks.3/a/out/MatMul"
    384: blocks.3.mlp.0.bias@0, onnx::MatMul_605@1, onnx::MatMul_606@0; summed by "/blocks/blocks.3/mlp/mlp.2/MatMul"
    4: blocks.4.a.qkv.bias@0*24x3/96, onnx::MatMul_607@1*24x3/96, onnx::MatMul_610@0*24; summed by "/blocks/blocks.4/a/out/MatMul"
    24: blocks.4.a.qkv.bias@0x12/24, onnx::MatMul_607@1x12/24, onnx::MatMul_610@0x4/24; summed by "/blocks/blocks.4/a/MatMul", "/blocks/blocks.4/a/out/MatMul"
    384: blocks.4.mlp.0.bias@0, onnx::MatMul_611@1, onnx::MatMul_612@0; summed by "/blocks/blocks.4/mlp/mlp.2/MatMul"
    4: blocks.5.a.qkv.bias@0*24x3/96, onnx::MatMul_613@1*24x3/96, onnx::MatMul_616@0*24; summed by "/blocks/blocks.5/a/out/MatMul"
    24: blocks.5.a.qkv.bias@0x12/24, onnx::MatMul_613@1x12/24, onnx::MatMul_616@0x4/24; summed by "/blocks/blocks.5/a/MatMul", "/blocks/blocks.5/a/out/MatMul"
    384: blocks.5.mlp.0.bias@0, onnx::MatMul_617@1, onnx::MatMul_618@0; summed by "/blocks/blocks.5/mlp/mlp.2/MatMul"
    and 5 that are blocked
    "#);
}
