// What onnx.checker and ONNX Runtime for Python said of the whole matrix, and that it was said of these very graphs.
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { describe, expect, it } from 'vitest'
import { memoryOut } from '../compiler/folders.ts'
import { compileCase, listCases, mayBeRefused, ROOT } from './artifact-matrix.ts'

interface Transcript {
  readonly versions: Readonly<Record<string, string>>
  /** Of the exports of other tools, before surgery. */
  readonly exports: Readonly<Record<string, { checker: string; onnxruntime: string }>>
  readonly results: readonly {
    readonly name: string
    readonly refused?: readonly string[]
    readonly graphs?: readonly { path: string; sha256: string; checker: string; onnxruntime: string }[]
  }[]
}

const AGAIN = 'run PYTHON=<python with onnx and onnxruntime> node test/parity/check-artifacts.ts'
const file = join(import.meta.dirname, 'oracle', 'artifacts.json')
const { versions, exports, results } = JSON.parse(readFileSync(file, 'utf8')) as Transcript
const said = new Map(results.map((result) => [result.name, result]))
const cases = listCases()

describe('the transcript of onnx.checker and ONNX Runtime', () => {
  it('names its versions and has every case of the matrix, no other', () => {
    expect(Object.keys(versions).sort()).toEqual(['onnx', 'onnxruntime', 'python'])
    expect([...said.keys()], AGAIN).toEqual(cases.map(({ name }) => name))
    expect(cases.length).toBeGreaterThan(20)
  })

  it('has onnx.checker accept every export before surgery but those of the onnxruntime-genai builder', () => {
    // SimplifiedLayerNormalization is no operator of the standard; ONNX Runtime has it there all the same.
    const refused = Object.entries(exports).filter(([, { checker }]) => checker !== 'ok')
    expect(
      refused.every(([name, { checker }]) => name.includes('/genai-') && /SimplifiedLayerNorm/.test(checker)),
    ).toBe(true)
    expect(Object.values(exports).every(({ onnxruntime }) => onnxruntime === 'ok')).toBe(true)
  })

  it.each(cases.map((one) => [one.name, one] as const))('accepts the graphs of %s', async (name, one) => {
    const made = await compileCase(one, memoryOut())
    const { refused, graphs } = said.get(name)!
    if ('refused' in made) {
      expect(mayBeRefused(one)).toBe(true)
      expect(refused, AGAIN).toEqual(made.refused)
      return
    }
    // Surgery leaves the verdict on an export as it was.
    const checker = one.isExport ? exports[relative(ROOT, one.base)]?.checker : 'ok'
    const expected = made.graphs.map((graph) => ({ ...graph, checker, onnxruntime: 'ok' }))
    expect(graphs, AGAIN).toEqual(expected)
  })
})
