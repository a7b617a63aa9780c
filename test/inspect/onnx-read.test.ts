// The ONNX reader: what it reads, each thing that it refuses, and damage of every kind.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { InputError } from '../../compiler/errors.ts'
import { readOnnx } from '../../compiler/onnx/read.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from '../compiler/failing.ts'
import { memoryOut, TINY } from '../compiler/folders.ts'
import { parseOnnx } from '../compiler/onnx-file.ts'
import { FUZZ_SEED, mutate, seeded } from '../compiler/random.ts'
import { external, FLOAT, message, model, node, raw, value } from './onnx-bytes.ts'

const read = (bytes: Uint8Array) => readOnnx(bytes, 'x.onnx')
const refused = (bytes: Uint8Array, ...words: string[]) =>
  expectRefusal(async () => read(bytes), 'onnx-invalid', 'x.onnx: at byte ', ...words)

let artifact: Map<string, Uint8Array>
beforeAll(async () => {
  const out = memoryOut()
  const adapters = [{ name: 'b', folder: openFolder(join(TINY, 'b')) }]
  await compile({ base: openFolder(join(TINY, 'base')), adapters, target: 'stacked' }, out, nodeHost)
  artifact = out.files
})

describe('what is read', () => {
  it.each(['model.onnx', 'engine.onnx'])('%s of an artifact, as another reader reads it', (path) => {
    const bytes = artifact.get(path)!
    const [ours, theirs] = [read(bytes), parseOnnx(bytes)]
    const { irVersion, opsets } = theirs
    expect(ours).toMatchObject({ irVersion, producer: 'sidepath', opsets, functions: 0 })
    const { nodes, inputs, outputs, initializers } = ours.graph
    expect(nodes.map(({ subgraphs: _, tensorBytes: __, ...node }) => node)).toEqual(theirs.nodes)
    for (const [values, expected] of [
      [inputs, theirs.inputs],
      [outputs, theirs.outputs],
    ] as const) {
      const shapes = Object.entries(expected).map(([name, { shape }]) => [name, shape])
      expect(values.map(({ name, shape }) => [name, shape])).toEqual(shapes)
    }
    const places = initializers.flatMap(({ name, dims, external: place }) =>
      place ? [[name, { dims, ...place }]] : [],
    )
    expect(Object.fromEntries(places)).toEqual(theirs.external)
  })

  it('typed data, scalars, packed dims, empty tensors and strings', () => {
    const { graph } = read(
      model(
        [5, message([2, FLOAT], [4, new Uint8Array(4)], [8, 'scalar'])],
        [5, message([1, new Uint8Array([2, 3])], [2, FLOAT], [4, new Uint8Array(24)], [8, 'packed'])],
        [5, raw('empty', [0, 7], 0)],
        [5, message([1, 2], [2, 8], [6, 'ab'], [6, 'c'], [8, 'strings'])],
        [5, raw('int4', [3], 2, 22)],
      ),
    )
    expect(graph.initializers.map(({ name, type, dims, bytes }) => [name, type, dims, bytes])).toEqual([
      ['scalar', 'float32', [], 4],
      ['packed', 'float32', [2, 3], 24],
      ['empty', 'float32', [0, 7], 0],
      ['strings', 'string', [2], 3],
      ['int4', 'int4', [3], 2],
    ])
  })

  it('graphs inside nodes, constants in attributes, other domains and functions', () => {
    const constant = node('Constant', [], ['c'], [5, message([1, 'value'], [5, raw('', [2], 8)])])
    const branch = message([1, 'then_branch'], [6, message([2, 'then'], [1, constant])])
    const choice = node('If', ['cond'], ['y'], [7, 'com.microsoft'], [5, branch])
    const { graph, functions } = read(message([1, 10], [25, message([1, 'f'])], [7, message([1, choice])]))
    expect(functions).toBe(1)
    expect(graph.nodes[0]).toMatchObject({ op: 'If', domain: 'com.microsoft', tensorBytes: 0 })
    expect(graph.nodes[0]!.subgraphs[0]!.nodes[0]).toMatchObject({ op: 'Constant', tensorBytes: 8 })
  })

  it('inputs without a shape and values that are no tensors', () => {
    const sequence = message([1, 's'], [2, message([4, message()])])
    const bare = message([1, 'x'], [2, message([1, message([1, FLOAT])])])
    expect(read(model([11, sequence], [11, bare])).graph.inputs).toEqual([
      { name: 's', type: 'sequence', shape: undefined },
      { name: 'x', type: 'float32', shape: undefined },
    ])
  })
})

/** `depth` graphs, each inside a node of the one before. */
function nested(depth: number): Uint8Array {
  if (depth === 0) return message([2, 'g'])
  return message([1, node('If', [], ['y'], [5, message([6, nested(depth - 1)])])])
}

describe('what is refused', () => {
  const place = { location: 'd', offset: '0', length: '8' }
  const at = (changes: Readonly<Record<string, string>>) => model([5, external('w', [2], { ...place, ...changes })])
  const weight = (dims: number[], bytes: number, type?: number) => model([5, raw('w', dims, bytes, type)])
  const input = model([11, value('x', FLOAT, [])], [11, value('x', FLOAT, [])])
  const key = message([1, 'location'], [2, 'd'])
  const float = [2, FLOAT] as const
  const cases: readonly (readonly [string, Uint8Array, string])[] = [
    ['a file without a graph', message([1, 10]), 'no graph'],
    ['a file without a version', message([7, message([2, 'g'])]), 'no ir_version'],
    ['two graphs', message([1, 10], [7, message()], [7, message()]), 'a second graph'],
    ['a group', Uint8Array.of(0x0b, 0x0c), 'wire type 3'],
    ['a node without an operator', model([1, message([1, 'x'])]), 'op_type'],
    ['graphs nested beyond 16', message([1, 10], [7, nested(17)]), 'nested deeper than 16'],
    ['raw_data that is short', weight([2, 3], 23), 'takes 24 bytes but raw_data has 23'],
    ['no data', model([5, message([1, 1000], float)]), 'takes 4000 bytes but has 0'],
    ['an unknown type', weight([1], 4, 99), 'unknown data_type 99'],
    ['an unknown type of an input', model([11, value('x', 77, [1])]), 'unknown elem_type 77'],
    ['a negative dimension', weight([-1], 4), 'a dimension is -1'],
    ['a product beyond 2^53', weight([2 ** 40, 2 ** 40], 4), 'more than 2^53'],
    ['17 dimensions', weight(Array(17).fill(1), 4), 'more than 16 dimensions'],
    ['17 packed dimensions', model([5, message([1, new Uint8Array(17).fill(1)], float)]), 'more than 16 numbers'],
    ['a shape of 17 dimensions', model([11, value('x', FLOAT, Array(17).fill(1))]), 'more than 16 dimensions'],
    ['two initializers of one name', model([5, raw('w', [1], 4)], [5, raw('w', [1], 4)]), 'two initializers'],
    ['two inputs of one name', input, 'two inputs'],
    ['a name of 4097 bytes', model([1, node('a'.repeat(4097), [], [])]), 'at most 4096'],
    ['a name that is not UTF-8', model([2, Uint8Array.of(0xff)]), 'not UTF-8'],
    ['a name that is a number', model([1, message([4, 7])]), 'is a number'],
    ['a path to the parent', at({ location: '../d' }), 'no plain path'],
    ['an absolute path', at({ location: '/etc/passwd' }), 'no plain path'],
    ['a path of backslashes', at({ location: 'a\\b' }), 'no plain path'],
    ['no path', model([5, external('w', [2], { offset: '0' })]), 'no plain path'],
    ['a negative offset', at({ offset: '-1' }), 'the offset "-1"'],
    ['an offset beyond 2^53', at({ offset: '9'.repeat(16) }), 'the offset "9999'],
    ['a hexadecimal offset', at({ offset: '0x10' }), 'the offset "0x10"'],
    ['a length that the shape does not need', at({ length: '9' }), 'the length 9'],
    ['a key of external data twice', model([5, message([1, 2], float, [13, key], [13, key], [14, 1])]), 'twice'],
    [
      'data here and in another file',
      model([5, message(float, [9, new Uint8Array(4)], [13, key], [14, 1])]),
      'both here',
    ],
  ]
  it.each(cases)('%s', async (_, bytes, words) => {
    await refused(bytes, words)
  })

  it('not graphs nested to 16', () => {
    expect(read(message([1, 10], [7, nested(16)])).graph.nodes).toHaveLength(1)
  })

  it('a number where a message belongs, in every field', async () => {
    const graphs = [1, 2, 5, 11, 12].map((field) => message([1, 10], [7, message([field, 3])]))
    const models = [2, 7, 8].map((field) => message([1, 10], [field, 3]))
    for (const bytes of [...graphs, ...models]) await refused(bytes, 'is a number')
  })
})

describe('damage', () => {
  const outcome = (bytes: Uint8Array): 'read' | 'refused' => {
    try {
      read(bytes)
      return 'read'
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      return 'refused'
    }
  }

  it('of a file that is cut at any byte is refused', () => {
    const branch = message([1, 'b'], [6, message([2, 'inner'])])
    const bytes = model(
      [1, node('If', ['c'], ['y'], [5, branch])],
      [5, external('w', [2, 3], { location: 'd', offset: '64', length: '24' })],
      [5, raw('v', [2], 8)],
      [11, value('x', FLOAT, ['batch', 3])],
    )
    expect(outcome(bytes)).toBe('read')
    // The opset comes last: without it what remains is whole.
    const whole = bytes.length - message([8, message([1, ''], [2, 21])]).length
    for (let length = 0; length < bytes.length; length += 1) {
      expect([length, outcome(bytes.subarray(0, length))]).toEqual([length, length === whole ? 'read' : 'refused'])
    }
  })

  it.each(['model.onnx', 'engine.onnx'])('of %s, 5,000 times, gives a model or a refusal, in no time', (path) => {
    const random = seeded(FUZZ_SEED)
    const file = artifact.get(path)!
    const counts = { read: 0, refused: 0 }
    let slowestMs = 0
    for (let round = 0; round < 5000; round += 1) {
      const started = performance.now()
      try {
        counts[outcome(mutate(file, random))] += 1
      } catch (error) {
        throw new Error(`seed ${FUZZ_SEED}, round ${round}`, { cause: error })
      }
      slowestMs = Math.max(slowestMs, performance.now() - started)
    }
    expect(counts.refused).toBeGreaterThan(500)
    expect(counts.read).toBeGreaterThan(500)
    expect(slowestMs).toBeLessThan(1000)
  })

  it('that leaves nothing but random bytes is refused', () => {
    const random = seeded(FUZZ_SEED + 1)
    for (let round = 0; round < 5000; round += 1) {
      const bytes = Uint8Array.from({ length: Math.floor(random() * 200) }, () => Math.floor(random() * 256))
      expect(outcome(bytes)).toBe('refused')
    }
  })

  it('that claims much in a small file allocates nothing', async () => {
    await refused(model([5, raw('w', [2 ** 30, 2 ** 10], 4)]), 'raw_data has 4')
    await refused(Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x07), 'cut short')
  })
})
