// The passes by their algebra: structure of the rewritten graph, numbers of the merged weight.
import { describe, expect, it } from 'vitest'
import type { Graph, Node } from '../../compiler/onnx/model.ts'
import { attachPaths } from '../../compiler/passes/attach-paths.ts'
import { attachShared, canShare } from '../../compiler/passes/attach-shared.ts'
import { attachSlots } from '../../compiler/passes/attach-slots.ts'
import { type Delta, mergeDelta } from '../../compiler/passes/merge-delta.ts'
import { expectRefusal } from './failing.ts'

const linear: Node = { op: 'MatMul', name: 'm.MatMul', inputs: ['x', 'w'], outputs: ['y'], attributes: {} }
const after: Node = { op: 'Sigmoid', name: 'after', inputs: ['y'], outputs: ['z'], attributes: {} }
const graph: Graph = { name: 'g', inputs: [], outputs: [], constants: [], weights: [], nodes: [linear, after] }

describe('attachSlots', () => {
  const routed = attachSlots(graph, [{ module: 'm', in: 3, out: 2 }])

  it('computes y = x·W + (x·A[slot])·B[slot] and leaves the name y to the sum', () => {
    expect(routed.nodes.map(({ op, inputs, outputs }) => [op, ...inputs, '→', ...outputs])).toEqual([
      ['MatMul', 'x', 'w', '→', 'm.base'],
      ['Gather', 'bank.m.lora_A', 'adapter_slots', '→', 'm.lora_A'],
      ['MatMul', 'x', 'm.lora_A', '→', 'm.lora_A.MatMul'],
      ['Gather', 'bank.m.lora_B', 'adapter_slots', '→', 'm.lora_B'],
      ['MatMul', 'm.lora_A.MatMul', 'm.lora_B', '→', 'm.lora_B.MatMul'],
      ['Add', 'm.base', 'm.lora_B.MatMul', '→', 'y'],
      ['Sigmoid', 'y', '→', 'z'],
    ])
  })

  it('declares the slots and the bank as inputs, the sizes of the bank open', () => {
    expect(routed.inputs).toEqual([
      { name: 'adapter_slots', type: 'int64', shape: ['batch'] },
      { name: 'bank.m.lora_A', type: 'float32', shape: ['slots', 3, 'rank'] },
      { name: 'bank.m.lora_B', type: 'float32', shape: ['slots', 'rank', 2] },
    ])
  })

  it('does not touch the graph that it was given', () => {
    expect(graph.nodes).toEqual([linear, after])
  })

  it('is a bug where a module of the bank is nowhere in the graph', () => {
    expect(() => attachSlots(graph, [{ module: 'other', in: 3, out: 2 }])).toThrow('sidepath bug')
  })
})

describe('attachPaths', () => {
  const other: Node = { op: 'MatMul', name: 'n.MatMul', inputs: ['x', 'v'], outputs: ['w'], attributes: {} }
  const pair = {
    name: 'm',
    linears: [
      { module: 'm', in: 3, out: 2 },
      { module: 'n', in: 3, out: 5 },
    ],
  }
  const nodesOf = (routed: Graph) =>
    routed.nodes.map(({ op, inputs, outputs }) => [op, ...inputs, '→', ...outputs].join(' '))

  it('multiplies by one A for the linears of a site and computes y = x·W + (x·A)·B for each', () => {
    expect(nodesOf(attachPaths({ ...graph, nodes: [linear, other, after] }, [pair]))).toEqual([
      'MatMul x path.m.lora_A → m.lora_A.MatMul',
      'Split m.lora_A.MatMul → m.low n.low',
      'MatMul x w → m.base',
      'MatMul m.low path.m.lora_B → m.lora_B.MatMul',
      'Add m.base m.lora_B.MatMul → y',
      'MatMul x v → n.base',
      'MatMul n.low path.n.lora_B → n.lora_B.MatMul',
      'Add n.base n.lora_B.MatMul → w',
      'Sigmoid y → z',
    ])
  })

  it('puts the products with B side by side where the linears of a site are one', () => {
    const joined = { ...linear, name: 'm.n.MatMul' }
    expect(nodesOf(attachPaths({ ...graph, nodes: [joined, after] }, [pair]))).toEqual([
      'MatMul x path.m.lora_A → m.lora_A.MatMul',
      'Split m.lora_A.MatMul → m.low n.low',
      'MatMul x w → m.base',
      'MatMul m.low path.m.lora_B → m.lora_B.MatMul',
      'MatMul n.low path.n.lora_B → n.lora_B.MatMul',
      'Concat m.lora_B.MatMul n.lora_B.MatMul → m.lora_B.all',
      'Add m.base m.lora_B.all → y',
      'Sigmoid y → z',
    ])
  })

  it('sums the two products of an affine weight and the path at once', () => {
    const alone = { name: 'm', linears: pair.linears.slice(0, 1) }
    const nodes: Node[] = [
      { ...linear, op: 'MatMulNBits', name: 'm.MatMul.centred', outputs: ['c'] },
      { ...linear, op: 'Add', inputs: ['c', 'o'] },
    ]
    expect(nodesOf(attachPaths({ ...graph, nodes }, [alone]))).toEqual([
      'MatMulNBits x w → c',
      'MatMul x path.m.lora_A → m.lora_A.MatMul',
      'MatMul m.lora_A.MatMul path.m.lora_B → m.lora_B.MatMul',
      'Sum c o m.lora_B.MatMul → y',
    ])
  })

  it('takes the product as it is where a site has one linear', () => {
    const alone = { name: 'm', linears: pair.linears.slice(0, 1) }
    expect(nodesOf(attachPaths(graph, [alone]))).toEqual([
      'MatMul x path.m.lora_A → m.lora_A.MatMul',
      'MatMul x w → m.base',
      'MatMul m.lora_A.MatMul path.m.lora_B → m.lora_B.MatMul',
      'Add m.base m.lora_B.MatMul → y',
      'Sigmoid y → z',
    ])
  })

  it('is a bug where the linears of a site read different values, or one is nowhere in the graph', () => {
    const apart = { ...graph, nodes: [linear, { ...other, inputs: ['y', 'v'] }] }
    expect(() => attachPaths(apart, [pair])).toThrow('n does not read what m reads')
    expect(() => attachPaths(graph, [pair])).toThrow('the graph has no node n.MatMul')
  })
})

describe('attachShared', () => {
  const pair = {
    name: 'm',
    linears: [
      { module: 'm', in: 3, out: 2 },
      { module: 'n', in: 3, out: 5 },
    ],
  }
  const joined = { ...graph, nodes: [{ ...linear, name: 'm.n.MatMul' }, after] }

  it('computes y = (x·A)·B + x·W for all linears of a site at once', () => {
    const { nodes } = attachShared(joined, [pair])
    expect(nodes.map(({ op, inputs, outputs }) => [op, ...inputs, '→', ...outputs].join(' '))).toEqual([
      'MatMul x w → m.base',
      'MatMul x shared.m.lora_A → m.lora_A.MatMul',
      'Gemm m.lora_A.MatMul shared.m.lora_B m.base → y',
      'Sigmoid y → z',
    ])
  })

  it('is there where each site is one product, and a bug elsewhere', () => {
    expect(canShare(joined, [pair])).toBe(true)
    expect(canShare(graph, [pair])).toBe(false)
    expect(() => attachShared(graph, [pair])).toThrow('the graph has no node m.n.MatMul')
  })
})

describe('mergeDelta', () => {
  // in = 3, out = 2, r = 1: Aᵀ [3, 1], Bᵀ [1, 2].
  const delta = (scale: number, A: number[], B: number[]): Delta => ({
    adapter: 'x',
    r: B.length / 2,
    scale,
    A: Float32Array.from(A),
    B: Float32Array.from(B),
  })

  it('adds scale·A·B to each row, counted from the block’s first', () => {
    const rows = Float32Array.of(1, 2, 3, 4)
    mergeDelta(rows, 1, 2, [delta(0.5, [100, 2, 3], [10, 20])], 'm')
    expect([...rows]).toEqual([1 + 10, 2 + 20, 3 + 15, 4 + 30])
  })

  it('sums ranks and adapters', () => {
    const rows = Float32Array.of(1, 1)
    mergeDelta(rows, 0, 2, [delta(2, [1, 10], [1, 2, 3, 4]), delta(-1, [5], [1, 0])], 'm')
    expect([...rows]).toEqual([1 + 2 * (1 + 30) - 5, 1 + 2 * (2 + 40)])
  })

  it('rounds once: deltas too small for fp32 one by one still add up', () => {
    const tiny = delta(1, [2 ** -13], [2 ** -12, 0])
    const rows = Float32Array.of(1, 0)
    mergeDelta(rows, 0, 2, Array(8).fill(tiny), 'm')
    expect(rows[0]).toBe(1 + 8 * 2 ** -25)
    expect(Math.fround(1 + 2 ** -25)).toBe(1)
  })

  it('leaves every bit alone where there is nothing to merge', () => {
    const rows = Float32Array.of(-0, 1e-45, 3.4e38)
    mergeDelta(rows, 0, 3, [], 'm')
    expect(Object.is(rows[0], -0)).toBe(true)
    expect([...rows]).toEqual([...Float32Array.of(-0, 1e-45, 3.4e38)])
  })

  it('refuses a sum that leaves the range of fp32 and names the adapters', async () => {
    const rows = Float32Array.of(3e38, 0)
    const merge = async () => mergeDelta(rows, 0, 2, [delta(1, [1], [3e38, 0])], 'model.layers.0.q')
    await expectRefusal(merge, 'merge-overflow', '"x"', 'model.layers.0.q')
  })
})
