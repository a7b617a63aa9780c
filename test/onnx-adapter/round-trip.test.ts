// What is written is what is read, bit for bit, and the same adapter always gives the same bytes.
import { expect, test } from 'vitest'
import { exportOnnxAdapter } from '../../compiler/onnx-adapter/export.ts'
import { readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { DATA_ALIGNMENT, writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import { decodeFloats } from '../../compiler/safetensors/decode.ts'
import { plain, problemOf } from './bounds.ts'
import { ALL_TYPES, ALL_TYPES_VERSIONS, DOWN, MODULES, QUERY, TINY } from './samples.ts'

const VERSIONS = { adapterVersion: 1, modelVersion: 1 }

test('every element type, shape and version survives a round trip in order', () => {
  const read = readOnnxAdapter(writeOnnxAdapter(ALL_TYPES_VERSIONS, ALL_TYPES), 'all-types')
  expect(read).toMatchObject({ formatVersion: 1, ...ALL_TYPES_VERSIONS })
  expect(plain(read.parameters)).toEqual(plain(ALL_TYPES))
})

test('raw data starts at a multiple of 8 in the file', () => {
  const { parameters } = readOnnxAdapter(writeOnnxAdapter(VERSIONS, ALL_TYPES), 'aligned')
  for (const { name, data } of parameters) expect([name, data.byteOffset % DATA_ALIGNMENT]).toEqual([name, 0])
})

test('a file inside a larger buffer is read where it lies', () => {
  const file = writeOnnxAdapter(VERSIONS, TINY)
  const larger = new Uint8Array(file.length + 10).fill(0xff)
  larger.set(file, 3)
  const read = readOnnxAdapter(larger.subarray(3, 3 + file.length), 'inside')
  expect(plain(read.parameters)).toEqual(plain(TINY))
  expect(read.parameters[0]?.data.buffer).toBe(larger.buffer)
})

test("an exported adapter has Olive's names, [in, r] and [r, out], and the values unchanged", () => {
  const read = readOnnxAdapter(exportOnnxAdapter(MODULES), 'exported')
  expect(read.parameters.map(({ name, dims }) => [name, dims])).toEqual([
    [`${QUERY}.lora_A.weight`, [12, 3]],
    [`${QUERY}.lora_B.weight`, [3, 20]],
    [`${DOWN}.lora_A.weight`, [28, 7]],
    [`${DOWN}.lora_B.weight`, [7, 12]],
  ])
  const [a, b] = read.parameters.map(({ data }) => decodeFloats(data, 'F32'))
  expect(a).toEqual(MODULES.get(QUERY)?.A)
  expect(b).toEqual(MODULES.get(QUERY)?.B)
})

test('the exported bytes do not depend on the order of the modules', () => {
  const reversed = new Map([...MODULES].reverse())
  expect(exportOnnxAdapter(reversed)).toEqual(exportOnnxAdapter(MODULES))
})

test('an exported factor may be a view into a larger bank', () => {
  const query = MODULES.get(QUERY)!
  const bank = new Float32Array(query.A.length + 5).fill(Number.NaN)
  bank.set(query.A, 5)
  const viewed = new Map([...MODULES, [QUERY, { ...query, A: bank.subarray(5) }] as const])
  expect(exportOnnxAdapter(viewed)).toEqual(exportOnnxAdapter(MODULES))
})

test('our own mistakes are not reported as bad input', () => {
  const [first] = TINY
  const write = (...parameters: Parameters<typeof writeOnnxAdapter>[1]) => writeOnnxAdapter(VERSIONS, parameters)
  expect(() => write(first!, first!)).toThrow(/sidepath bug: two parameters are named "a"/)
  expect(() => write({ ...first!, dims: [3, 1] })).toThrow(/sidepath bug: .*has 4 bytes/)
  expect(() => write({ ...first!, dims: [-2, -1] })).toThrow(/sidepath bug: .*has the dims \[-2,-1\]/)
  expect(() => write({ ...first!, name: '\ud800' })).toThrow(/sidepath bug: .*lone surrogate/)
  const query = MODULES.get(QUERY)!
  expect(() => exportOnnxAdapter(new Map([[QUERY, { ...query, r: 4 }]]))).toThrow(/sidepath bug: .*\[12,4\]/)
})

test('an adapter that would change nothing is not written', () => {
  expect(problemOf(() => exportOnnxAdapter(new Map()))).toMatch(/onnx-adapter-invalid .*without parameters/)
})

test('a version is written at the edges of int32 and refused beyond', () => {
  for (const version of [2 ** 31 - 1, -(2 ** 31)]) {
    const file = writeOnnxAdapter({ ...VERSIONS, adapterVersion: version }, TINY)
    expect(readOnnxAdapter(file, 'version').adapterVersion).toBe(version)
  }
  for (const version of [2 ** 31, -(2 ** 31) - 1, 1.5, Number.NaN]) {
    const message = problemOf(() => writeOnnxAdapter({ ...VERSIONS, modelVersion: version }, TINY))
    expect(message).toContain(`model version ${version}; the format holds a 32-bit integer`)
  }
})
