// What onnx.checker and ONNX Runtime for Python said of the whole matrix, and that it was said of these very graphs.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { graphFiles } from '../../compiler/contract.ts'
import { memoryOut } from '../compiler/folders.ts'
import { compileCase, listCases } from './artifact-matrix.ts'

interface Transcript {
  readonly versions: Readonly<Record<string, string>>
  readonly results: readonly {
    readonly name: string
    readonly refused?: readonly string[]
    readonly graphs?: readonly { path: string; sha256: string; checker: string; onnxruntime: string }[]
  }[]
}

const AGAIN = 'run PYTHON=<python with onnx and onnxruntime> node test/parity/check-artifacts.ts'
const file = join(import.meta.dirname, 'oracle', 'artifacts.json')
const { versions, results } = JSON.parse(readFileSync(file, 'utf8')) as Transcript
const said = new Map(results.map((result) => [result.name, result]))
const cases = listCases()

describe('the transcript of onnx.checker and ONNX Runtime', () => {
  it('names its versions and has every case of the matrix, no other', () => {
    expect(Object.keys(versions).sort()).toEqual(['onnx', 'onnxruntime', 'python'])
    expect([...said.keys()], AGAIN).toEqual(cases.map(({ name }) => name))
    expect(cases.length).toBeGreaterThan(20)
  })

  it.each(cases.map((one) => [one.name, one] as const))('accepts the graphs of %s', async (name, one) => {
    const made = await compileCase(one, memoryOut())
    const { refused, graphs } = said.get(name)!
    if ('refused' in made) {
      // A stack of nothing, and two classifiers in one; no other case may be refused.
      const isOfNoAdapters = one.target === 'stacked' && one.adapters.length === 0
      const isOfTwoHeads = name.includes('-classifier ') && one.target !== 'routed' && one.adapters.length === 2
      expect(isOfNoAdapters || isOfTwoHeads).toBe(true)
      expect(refused, AGAIN).toEqual(made.refused)
      return
    }
    const hashes = new Map(made.manifest.files.map(({ path, sha256 }) => [path, sha256]))
    const expected = graphFiles(made.manifest).map((path) => {
      return { path, sha256: hashes.get(path), checker: 'ok', onnxruntime: 'ok' }
    })
    expect(graphs, AGAIN).toEqual(expected)
  })
})
