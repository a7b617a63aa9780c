// The two graphs as files: the inputs and outputs of docs/artifact-format.md, shared weights, standard operators, few nodes.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { ropeTable } from '../../compiler/graph/rope.ts'
import { planWeights } from '../../compiler/graph/weights.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { memoryOut, TINY } from './folders.ts'
import { type OnnxFile, parseOnnx } from './onnx-file.ts'

const FLOAT = 1
const INT64 = 7

interface Artifact {
  readonly manifest: Manifest
  readonly data: Uint8Array
  readonly model: OnnxFile
  readonly engine: OnnxFile
  readonly base: OnnxFile | '' | undefined
  readonly shared: OnnxFile | '' | undefined
}

let routed: Artifact
let plain: Artifact

beforeAll(async () => {
  const make = async (target: 'routed' | 'merged'): Promise<Artifact> => {
    const out = memoryOut()
    const { manifest } = await compile({ base: openFolder(join(TINY, 'base')), adapters: [], target }, out, nodeHost)
    const file = (path: string) => out.files.get(path) as Uint8Array
    return {
      manifest,
      data: file('model.onnx_data'),
      model: parseOnnx(file(manifest.graphs.model)),
      engine: parseOnnx(file(manifest.graphs.engine)),
      base: manifest.graphs.base && parseOnnx(file(manifest.graphs.base)),
      shared: manifest.graphs.shared && parseOnnx(file(manifest.graphs.shared)),
    }
  }
  routed = await make('routed')
  plain = await make('merged')
})

const perLayer = (layers: number, entries: (layer: number) => [string, unknown][]) =>
  Object.fromEntries(Array.from({ length: layers }, (_, layer) => entries(layer)).flat())

describe('the specification', () => {
  it('is what model.onnx declares', () => {
    expect(plain.model.inputs).toEqual({
      input_ids: { type: INT64, shape: ['batch', 'tokens'] },
      position_ids: { type: INT64, shape: ['batch', 'tokens'] },
      attention_mask: { type: INT64, shape: ['batch', 'total'] },
      ...perLayer(2, (i) => [
        [`past_key_values.${i}.key`, { type: FLOAT, shape: ['batch', 3, 'past', 8] }],
        [`past_key_values.${i}.value`, { type: FLOAT, shape: ['batch', 3, 'past', 8] }],
      ]),
    })
    expect(plain.model.outputs).toEqual({
      logits: { type: FLOAT, shape: ['batch', 'tokens', 96] },
      ...perLayer(2, (i) => [
        [`present.${i}.key`, { type: FLOAT, shape: ['batch', 3, 'total', 8] }],
        [`present.${i}.value`, { type: FLOAT, shape: ['batch', 3, 'total', 8] }],
      ]),
    })
  })

  it('is what engine.onnx declares', () => {
    expect(plain.engine.inputs).toEqual({
      input_ids: { type: INT64, shape: ['batch', 'tokens'] },
      position_ids: { type: INT64, shape: ['batch', 'tokens'] },
      past_lengths: { type: INT64, shape: ['batch'] },
      logit_indices: { type: INT64, shape: ['logits', 2] },
      ...perLayer(2, (i) => [
        [`cache.${i}.key`, { type: FLOAT, shape: ['batch', 3, 8, 'capacity'] }],
        [`cache.${i}.value`, { type: FLOAT, shape: ['batch', 3, 'capacity', 8] }],
      ]),
    })
    expect(plain.engine.outputs).toEqual({
      logits: { type: FLOAT, shape: ['logits', 96] },
      ...perLayer(2, (i) => [
        [`new.${i}.key`, { type: FLOAT, shape: ['batch', 3, 8, 'tokens'] }],
        [`new.${i}.value`, { type: FLOAT, shape: ['batch', 3, 'tokens', 8] }],
      ]),
    })
  })

  it('adds slots and the bank, and nothing else, to a routed model.onnx', () => {
    const bank = Object.fromEntries(
      routed.manifest.bank.flatMap(({ module, in: inSize, out }) => [
        [`bank.${module}.lora_A`, { type: FLOAT, shape: ['slots', inSize, 'rank'] }],
        [`bank.${module}.lora_B`, { type: FLOAT, shape: ['slots', 'rank', out] }],
      ]),
    )
    expect(routed.manifest.bank).toHaveLength(14)
    expect(routed.model.inputs).toEqual({
      ...plain.model.inputs,
      adapter_slots: { type: INT64, shape: ['batch'] },
      ...bank,
    })
    expect(routed.model.outputs).toEqual(plain.model.outputs)
  })

  it('adds one A for the linears that read one value, and a B for each, to engine.onnx', () => {
    // q, k and v; o; gate and up; down: 48 wide, 6 heads and 3 KV heads of 8, 72 between.
    const sites = [
      { in: 48, outs: { 'self_attn.q_proj': 48, 'self_attn.k_proj': 24, 'self_attn.v_proj': 24 } },
      { in: 48, outs: { 'self_attn.o_proj': 48 } },
      { in: 48, outs: { 'mlp.gate_proj': 72, 'mlp.up_proj': 72 } },
      { in: 72, outs: { 'mlp.down_proj': 48 } },
    ]
    const paths = perLayer(2, (i) =>
      sites.flatMap((site): [string, unknown][] => {
        const outs = Object.entries(site.outs).map(([name, out]) => [`model.layers.${i}.${name}`, out] as const)
        const [first] = outs[0]!
        return [
          [`path.${first}.lora_A`, { type: FLOAT, shape: ['groups', site.in, `${first}.ranks`] }],
          ...outs.map(([module, out]): [string, unknown] => [
            `path.${module}.lora_B`,
            { type: FLOAT, shape: ['groups', `${first}.rank`, out] },
          ]),
        ]
      }),
    )
    expect(routed.engine.inputs).toEqual({ ...plain.engine.inputs, ...paths })
    expect(routed.engine.outputs).toEqual(plain.engine.outputs)
    expect(routed.base).toEqual(plain.engine)
  })

  it('adds one A and one B for the linears that read one value, without groups, to engine-shared.onnx', () => {
    const sites = [
      { name: 'self_attn.q_proj', in: 48, out: 96 },
      { name: 'self_attn.o_proj', in: 48, out: 48 },
      { name: 'mlp.gate_proj', in: 48, out: 144 },
      { name: 'mlp.down_proj', in: 72, out: 48 },
    ]
    const paths = perLayer(2, (i) =>
      sites.flatMap(({ name, in: inSize, out }): [string, unknown][] => {
        const first = `model.layers.${i}.${name}`
        return [
          [`shared.${first}.lora_A`, { type: FLOAT, shape: [inSize, `${first}.rank`] }],
          [`shared.${first}.lora_B`, { type: FLOAT, shape: [`${first}.rank`, out] }],
        ]
      }),
    )
    expect((routed.shared as OnnxFile).inputs).toEqual({ ...plain.engine.inputs, ...paths })
    expect((routed.shared as OnnxFile).outputs).toEqual(plain.engine.outputs)
    expect(plain.shared).toBeUndefined()
  })
})

describe('the files', () => {
  it('are ONNX IR 10, opset 21, model.onnx of standard operators only', () => {
    for (const { irVersion, opsets, nodes } of [routed.model, plain.model]) {
      expect(irVersion).toBe(10)
      expect(opsets).toEqual([{ domain: '', version: 21 }])
      expect(new Set(nodes.map(({ domain }) => domain))).toEqual(new Set(['']))
    }
  })

  it('have two operators of ONNX Runtime in the forms for the backend', () => {
    for (const { irVersion, opsets, nodes } of [routed.engine, routed.shared as OnnxFile, plain.engine]) {
      expect(irVersion).toBe(10)
      expect(opsets).toEqual([
        { domain: '', version: 21 },
        { domain: 'com.microsoft', version: 1 },
      ])
      const own = nodes.filter(({ domain }) => domain === 'com.microsoft').map(({ op }) => op)
      expect(new Set(own)).toEqual(new Set(['RotaryEmbedding', 'SkipSimplifiedLayerNormalization']))
    }
  })

  it('refer to the same weights at the same places, 64-byte aligned, without overlap, inside the data file', () => {
    expect(routed.engine.external).toEqual(routed.model.external)
    expect(plain.engine.external).toEqual(routed.model.external)
    const places = Object.values(routed.model.external).sort((a, b) => a.offset - b.offset)
    let end = 0
    for (const { dims, location, offset, length } of places) {
      expect(location).toBe('model.onnx_data')
      expect(offset % 64).toBe(0)
      expect(offset).toBeGreaterThanOrEqual(end)
      expect(length).toBe(dims.reduce((product, size) => product * size, 4))
      end = offset + length
    }
    expect(end).toBe(routed.data.length)
  })

  it('hold no weights themselves', () => {
    for (const { inlineBytes } of [routed.model, routed.engine]) expect(inlineBytes).toBeLessThan(1000)
  })

  it('name every node and every value once', () => {
    for (const { nodes } of [routed.model, routed.engine]) {
      expect(new Set(nodes.map(({ name }) => name)).size).toBe(nodes.length)
      const outputs = nodes.flatMap((node) => node.outputs).filter((value) => value !== '')
      expect(new Set(outputs).size).toBe(outputs.length)
    }
  })

  // At one row a node costs 5 to 8 µs whatever it computes, so their number is a budget.
  it('stay within their budget of nodes: the fixed part, and per layer', () => {
    expect(plain.engine.nodes.length).toBeLessThanOrEqual(38 + 2 * 32)
    expect(plain.model.nodes.length).toBeLessThanOrEqual(32 + 2 * 46)
    expect(routed.model.nodes.length - plain.model.nodes.length).toBe(14 * 5)
    // Of a layer: a product with A and a sum a site, a Split and a Concat where it has several linears, a product with B a
    // linear; and 2 for the groups.
    expect(routed.engine.nodes.length - plain.engine.nodes.length).toBe(2 * (2 * 4 + 2 * 2 + 7) + 2)
    expect((routed.shared as OnnxFile).nodes.length - plain.engine.nodes.length).toBe(2 * 2 * 4)
  })
})

describe('planWeights', () => {
  it('aligns every weight to 64 bytes, also where sizes are odd', () => {
    const { architecture } = routed.manifest.base
    const odd = {
      ...architecture,
      hiddenSize: 7,
      intermediateSize: 11,
      vocabSize: 13,
      heads: 3,
      kvHeads: 1,
      headDim: 2,
    }
    const rest = { rmsNormEps: 1e-5, ropeTheta: 10_000, tiedHead: false, eosTokenIds: [2] }
    let end = 0
    for (const { offset, bytes } of planWeights({ architecture: odd, ...rest })) {
      expect(offset % 64).toBe(0)
      expect(offset - end).toBeGreaterThanOrEqual(0)
      expect(offset - end).toBeLessThan(64)
      end = offset + bytes
    }
  })

  it('stores a tied head once', () => {
    const { architecture } = routed.manifest.base
    const rest = { rmsNormEps: 1e-5, ropeTheta: 10_000, eosTokenIds: [2] }
    const names = (tiedHead: boolean) => planWeights({ architecture, tiedHead, ...rest }).map(({ name }) => name)
    expect(names(false).filter((name) => !names(true).includes(name))).toEqual(['lm_head.weight'])
  })
})

describe('ropeTable', () => {
  it('holds cos and sin of p·θ^(-2i/d), with the fp32 roundings of transformers', () => {
    const table = ropeTable(600, 8, 10_000)
    for (const position of [0, 1, 7, 599]) {
      for (const i of [0, 1, 2, 3]) {
        const angle = Math.fround(position * Math.fround(1 / Math.fround(10_000 ** (i / 4))))
        expect(table[position * 8 + i]).toBe(Math.fround(Math.cos(angle)))
        expect(table[position * 8 + 4 + i]).toBe(Math.fround(Math.sin(angle)))
        expect(table[position * 8 + i]).toBeCloseTo(Math.cos(position * 10_000 ** (-i / 4)), 4)
      }
    }
  })
})
