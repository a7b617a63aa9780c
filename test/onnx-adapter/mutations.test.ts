// Files cut short, changed byte by byte and at random: an InputError or a reading within bounds, never anything else.
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import { plain, problemOf, readHostile } from './bounds.ts'
import { ALL_TYPES, TINY } from './samples.ts'

const VERSIONS = { adapterVersion: 1, modelVersion: 1 }
const ORACLE = new URL('../parity/oracle/onnx-adapter/', import.meta.url)
const oracleFiles = readdirSync(ORACLE).filter((name) => name.endsWith('.onnx_adapter'))
const stored = (name: string) => new Uint8Array(readFileSync(new URL(name, ORACLE)))

const SEED = 20_260_811
const MUTATIONS = 30_000

test('our files are refused at every length but their own', () => {
  for (const file of [writeOnnxAdapter(VERSIONS, TINY), writeOnnxAdapter(VERSIONS, ALL_TYPES)]) {
    for (let length = 0; length < file.length; length += 1) {
      const message = problemOf(() => readOnnxAdapter(file.slice(0, length), 'cut'))
      expect(message).toMatch(/^onnx-adapter-invalid cut: at byte \d+: /)
    }
  }
})

test.each(oracleFiles)('%s cut short is refused, or only padding was lost', (name) => {
  const file = stored(name)
  const whole = plain(readOnnxAdapter(file, name).parameters)
  let refused = 0
  for (let length = 0; length < file.length; length += 1) {
    const read = readHostile(file.slice(0, length))
    if (read === undefined) refused += 1
    else expect(plain(read.parameters)).toEqual(whole)
  }
  // Padding after the last object is less than the largest alignment.
  expect(refused).toBeGreaterThan(file.length - 8)
})

test('every byte of a small file set to every value', () => {
  const file = writeOnnxAdapter(VERSIONS, TINY)
  let refused = 0
  for (let at = 0; at < file.length; at += 1) {
    for (let value = 0; value < 256; value += 1) {
      const mutated = file.slice()
      mutated[at] = value
      if (readHostile(mutated) === undefined) refused += 1
    }
  }
  // Values, versions and padding may change freely; offsets, lengths and shapes may not.
  expect(refused).toBeGreaterThan((file.length * 256) / 2)
})

test(`${MUTATIONS} random mutations, seed ${SEED}`, () => {
  const random = mulberry32(SEED)
  const sources = [writeOnnxAdapter(VERSIONS, TINY), ...oracleFiles.map(stored)]
  let refused = 0
  for (let round = 0; round < MUTATIONS; round += 1) {
    const mutated = mutate(sources[below(random, sources.length)]!, random)
    try {
      if (readHostile(mutated) === undefined) refused += 1
    } catch (error) {
      throw new Error(`seed ${SEED}, round ${round}: ${Buffer.from(mutated).toString('hex')}`, { cause: error })
    }
  }
  expect(refused).toBeGreaterThan(MUTATIONS / 4)
  expect(refused).toBeLessThan(MUTATIONS)
})

type Random = () => number
const below = (random: Random, bound: number) => Math.floor(random() * bound)

/** Lengths, offsets and sizes at the edges of their types. */
const EDGES = [
  0, 1, 3, 4, 7, 8, 12, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff,
]

function mutate(source: Uint8Array<ArrayBuffer>, random: Random): Uint8Array<ArrayBuffer> {
  let bytes = source.slice()
  const changes = 1 + below(random, 4)
  for (let i = 0; i < changes; i += 1) {
    const view = new DataView(bytes.buffer)
    // The first half holds the structure of small files, and most of what there is to break.
    const at = below(random, random() < 0.5 ? bytes.length : bytes.length / 2)
    const edge = EDGES[below(random, EDGES.length)]!
    const kind = below(random, 7)
    if (kind === 0) bytes[at] = below(random, 256)
    else if (kind === 1) bytes[at] = bytes[at]! ^ (1 << below(random, 8))
    else if (kind === 2 && at + 4 <= bytes.length) view.setUint32(at & ~3, edge, true)
    else if (kind === 3 && at + 4 <= bytes.length) view.setUint32(at & ~3, below(random, bytes.length * 2), true)
    else if (kind === 4) view.setUint16(Math.min(at & ~1, bytes.length - 2), edge & 0xffff, true)
    else if (kind === 5) bytes.copyWithin(at, below(random, bytes.length), below(random, bytes.length))
    else if (bytes.length > 16) bytes = bytes.slice(0, bytes.length - below(random, 8))
  }
  return bytes
}

/** A small seeded generator; github.com/cprosche/mulberry32. */
function mulberry32(seed: number): Random {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
