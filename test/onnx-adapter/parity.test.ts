// Against ONNX Runtime: its files are read as it reads them, and it reads ours. Oracle: test/parity/onnx-adapter-oracle.py.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { DATA_TYPES } from '../../compiler/onnx-adapter/format.ts'
import { readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import oracle from '../parity/oracle/onnx-adapter/oracle.json' with { type: 'json' }
import { plain } from './bounds.ts'
import { OUR_FILES } from './our-files.ts'
import { MODULES } from './samples.ts'

interface Described {
  readonly sha256: string
  readonly bytes: number
  readonly formatVersion: number
  readonly adapterVersion: number
  readonly modelVersion: number
  readonly parameters: Readonly<Record<string, { dims: number[]; code: number; bytes: number; sha256: string }>>
}

const files: readonly (readonly [string, Described])[] = Object.entries(oracle.files)
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

function stored(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(new URL(`../parity/oracle/onnx-adapter/${name}`, import.meta.url)))
}

test('the oracle holds files of both sides', () => {
  expect(files.map(([name]) => name)).toEqual([
    'ours-all-types.onnx_adapter',
    'ours-exported.onnx_adapter',
    'theirs-defaults.onnx_adapter',
    'theirs-integers.onnx_adapter',
    'theirs-lora.onnx_adapter',
  ])
})

test.each(files)('%s is read as ONNX Runtime reads it', (name, described) => {
  const bytes = stored(name)
  expect(sha256(bytes)).toBe(described.sha256)
  const { parameters, ...versions } = readOnnxAdapter(bytes, name)
  const found = parameters.map(({ name, dims, dataType, data }) => [
    name,
    { dims, code: DATA_TYPES[dataType].code, bytes: data.length, sha256: sha256(data) },
  ])
  const { sha256: _, bytes: size, ...expected } = described
  expect({ ...versions, parameters: Object.fromEntries(found) }).toEqual(expected)
  expect(found.length).toBe(Object.keys(described.parameters).length)
  expect(bytes.length).toBe(size)
})

test('the files that ONNX Runtime loaded are the bytes that we still write', () => {
  for (const [name, bytes] of OUR_FILES) {
    expect([name, sha256(bytes)]).toEqual([name, new Map(files).get(name)?.sha256])
    expect(bytes).toEqual(stored(name))
  }
})

test.each(files.filter(([name]) => name.startsWith('theirs')))('%s written by us is read the same', (name) => {
  const { parameters, ...versions } = readOnnxAdapter(stored(name), name)
  const again = readOnnxAdapter(writeOnnxAdapter(versions, parameters), name)
  expect(again).toMatchObject(versions)
  expect(plain(again.parameters)).toEqual(plain(parameters))
})

test.each(Object.entries(oracle.runs))('ONNX Runtime with our file computes x·A·B of %s', (name, { x, y }) => {
  const { A, B, r, in: inputs, out } = MODULES.get(name)!
  const rows = x.length / inputs
  const low = product(x, A, rows, inputs, r)
  const expected = product(low, B, rows, r, out)
  expect(y.length).toBe(expected.length)
  for (const [i, value] of expected.entries()) expect(y[i]).toBeCloseTo(value, 4)
})

function product(left: ArrayLike<number>, right: ArrayLike<number>, rows: number, inner: number, columns: number) {
  return Array.from({ length: rows * columns }, (_, at) => {
    const row = Math.floor(at / columns)
    let sum = 0
    for (let k = 0; k < inner; k += 1) sum += left[row * inner + k]! * right[k * columns + (at % columns)]!
    return sum
  })
}
