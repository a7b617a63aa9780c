// Seeded ONNX files with external data that are wrong on purpose, and what must hold of each: for the tests and the bench.
import { InputError } from '../../compiler/errors.ts'
import type { ByteSource, Folder } from '../../compiler/host.ts'
import { inspectOnnx } from '../../compiler/inspect/onnx.ts'
import { readOnnx } from '../../compiler/onnx/read.ts'
import type { OnnxGraph, OnnxTensor } from '../../compiler/onnx/summary.ts'
import { memorySource } from '../compiler/folders.ts'
import { mutate } from '../compiler/random.ts'
import { external, FLOAT, message, node, raw, value } from './onnx-bytes.ts'

type Random = () => number
type Field = readonly [number, number | string | Uint8Array]

const DATA_FILE = 'weights.bin'
const DATA_BYTES = 4096

const LOCATIONS = [
  ...['../weights.bin', '../../etc/passwd', '/etc/passwd', 'a/../../b', './weights.bin', 'a//b', 'a\\..\\b', ''],
  ...[
    'C:\\x',
    '\\\\host\\share',
    'weights.bin\0',
    '~/x',
    'file:///etc/passwd',
    '%2e%2e/x',
    '..',
    '.',
    '\ud7ff/..',
    'x/',
  ],
]
const NUMBERS = [
  ...['-1', '4095', '4097', '9007199254740991', '9007199254740992', '99999999999999999999', '0x10', '1e9', ' 1'],
  ...['', 'NaN', '+1', '01', '18446744073709551616'],
]

const pick = <T>(list: readonly T[], random: Random): T => list[Math.floor(random() * list.length)] as T
const upTo = (most: number, random: Random): number => Math.floor(random() * most)

/** A file of valid fields, one or several of them hostile, and in half of the cases damaged bytes on top. */
export function hostileOnnx(random: Random): Uint8Array<ArrayBuffer> {
  const fields: Field[] = [
    [2, 'g'],
    [1, node('MatMul', ['x', 'w'], ['h'])],
    [1, node('Add', ['h', 'b'], ['y'])],
    [5, external('w', [16, 16], { location: DATA_FILE, offset: '64', length: '1024' })],
    [5, raw('b', [16], 64)],
    [11, value('x', FLOAT, ['batch', 16])],
    [12, value('y', FLOAT, ['batch', 16])],
  ]
  for (let count = 1 + upTo(3, random); count > 0; count -= 1) {
    fields.splice(upTo(fields.length + 1, random), 0, ...pick(HOSTILE, random)(random, fields))
  }
  const whole = message([1, 10], [2, 'somebody'], [7, message(...fields)], [8, message([1, ''], [2, 21])])
  const damaged = random() < 0.5 ? mutate(whole, random) : whole
  return new Uint8Array(random() < 0.1 ? damaged.subarray(0, upTo(damaged.length, random)) : damaged)
}

const HOSTILE: readonly ((random: Random, fields: readonly Field[]) => Field[])[] = [
  // Paths out of the folder, in an initializer and in an attribute of a node.
  (random) => {
    const tensor = external('t', [1], { location: pick(LOCATIONS, random), offset: '0' })
    return [random() < 0.5 ? [5, tensor] : [1, node('Constant', [], ['c'], [5, message([1, 'value'], [5, tensor])])]]
  },
  // Places beyond the file, or that are no numbers.
  (random) => {
    const place = { location: DATA_FILE, offset: pick(NUMBERS, random), length: pick(['4', ...NUMBERS], random) }
    return [[5, external('o', [1], place)]]
  },
  // Nodes that feed each other, and one that feeds itself.
  (random) => [
    [1, node('Relu', ['loop1'], ['loop0'])],
    [1, node('Relu', [random() < 0.5 ? 'loop0' : 'loop1'], ['loop1'])],
  ],
  // One name for two things.
  (random, fields) => [pick(fields, random)],
  (random) => [[5, raw(pick(['w', 'b', 'x', 'h', ''], random), [1], 4)]],
  // Varints at and beyond every width, as dimensions, types and counts.
  (random) => {
    const tensor = hugeVarint(pick([0x08, 0x10, 0x70, 0x18], random), 1 + upTo(12, random), random)
    return [[5, tensor]]
  },
  // A length that points beyond the file.
  (random) => [[5, hugeVarint(pick([0x42, 0x4a, 0x6a], random), 1 + upTo(6, random), random)]],
  // Shapes whose product overflows.
  (random) => [
    [
      5,
      raw(
        's',
        Array.from({ length: upTo(20, random) }, () => 2 ** upTo(53, random)),
        8,
      ),
    ],
  ],
  // Much claimed and little there.
  (random) => [[5, message([1, 2 ** upTo(40, random)], [2, FLOAT], [8, 'n'], [4, new Uint8Array(upTo(9, random))])]],
  // Graphs within graphs, to the limit and beyond.
  (random) => [[1, nested(upTo(20, random))]],
  // External data and data of its own at once; an entry twice.
  (random) => {
    const entry = message([1, 'location'], [2, DATA_FILE])
    const own: Field[] = random() < 0.5 ? [[9, new Uint8Array(4)]] : []
    return [[5, message([1, 1], [2, FLOAT], [8, 'e'], ...own, [13, entry], [13, entry], [14, 1])]]
  },
]

/** A tag and a varint of so many bytes, each but the last with its continuation bit. */
function hugeVarint(tag: number, length: number, random: Random): Uint8Array {
  const bytes = Uint8Array.from({ length }, () => 0x80 | upTo(128, random))
  if (random() < 0.8) bytes[length - 1]! &= 0x7f
  return Uint8Array.of(tag, ...bytes)
}

function nested(depth: number): Uint8Array {
  const inner: Field = depth === 0 ? [2, 'leaf'] : [1, nested(depth - 1)]
  return node('If', ['x'], ['y'], [5, message([1, 'then_branch'], [6, message(inner)])])
}

export interface Outcome {
  readonly refused: boolean
  /** Bytes that were asked of the file. */
  readonly asked: number
}

/** Reads and inspects the file. Throws where it does anything but refuse it with an InputError, or read it within bounds. */
export async function readHostile(bytes: Uint8Array<ArrayBuffer>): Promise<Outcome> {
  let asked = 0
  const plain = memorySource('x.onnx', bytes)
  const source: ByteSource = {
    ...plain,
    read(offset, length) {
      asked += length
      return plain.read(offset, length)
    },
  }
  const folder: Folder = {
    name: 'folder',
    async open(path) {
      if (/^\/|\\|:|(^|\/)\.{0,2}(\/|$)/.test(path)) throw new Error(`${JSON.stringify(path)} was opened`)
      return path === DATA_FILE ? memorySource(path, new Uint8Array(DATA_BYTES)) : undefined
    },
  }
  try {
    const { notes } = await inspectOnnx(source, folder)
    const tensors = tensorsOf(readOnnx(bytes, 'x.onnx').graph)
    for (const { name, bytes: size, external: place } of tensors) {
      if (place === undefined) {
        // A byte of typed data stands for at most 16 of a tensor's.
        if (size > 16 * bytes.length) throw new Error(`${name} claims ${size} bytes of a file of ${bytes.length}`)
        continue
      }
      const { location, offset, length } = place
      if (![offset, length].every(Number.isSafeInteger)) throw new Error(`${name} lies at ${offset} + ${length}`)
      const fits = location === DATA_FILE && offset + length <= DATA_BYTES
      if (!fits && !notes.some((note) => note.includes(location))) throw new Error(`${name} at ${location} has no note`)
    }
    return { refused: false, asked }
  } catch (error) {
    if (error instanceof InputError) return { refused: true, asked }
    throw error
  }
}

function tensorsOf({ initializers, nodes }: OnnxGraph): OnnxTensor[] {
  return [...initializers, ...nodes.flatMap(({ subgraphs }) => subgraphs.flatMap(tensorsOf))]
}
