// `sidepath combine` on folders: what it writes, what it prints, what it refuses.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { combineCommand } from '../../cli/combine.ts'
import { combineModules } from '../../compiler/combine/combine.ts'
import { TINY } from '../compiler/folders.ts'
import { deltaOf, largestDifference, ORACLE, oracleInputs, product, readInput } from './adapters.ts'

const base = join(TINY, 'base')
const adapter = ['a*0.7', 'b*-0.4', 'd*0.9'].map((spec) => `${spec}=${join(ORACLE, spec.charAt(0))}`)
let folder: string
let printed: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-combine-'))
  printed = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text)
    return true
  })
})

afterEach(async () => {
  vi.restoreAllMocks()
  await rm(folder, { recursive: true, force: true })
})

describe('writes', () => {
  test('an adapter whose deltas are those of the library, module by module', async () => {
    const out = join(folder, 'mix')
    await combineCommand({ base, adapter, out })
    const expected = combineModules(await oracleInputs(['a', 'b', 'd']))
    const found = await readInput('mix', 1, out)
    expect([...found.modules.keys()].sort()).toEqual([...expected.modules.keys()])
    for (const [module, factors] of found.modules) {
      expect(factors.scaling).toBe(1)
      expect(largestDifference(product(factors), deltaOf(expected, module))).toBe(0)
    }
    const config = JSON.parse(await readFile(join(out, 'adapter_config.json'), 'utf8'))
    expect(config.base_model_name_or_path).toBe('sidepath/tiny-base')
    expect(printed).toContain('exact of a*0.7 + b*-0.4 + d*0.9: 2 modules of rank 12, 13')
    expect(await readdir(folder)).toEqual(['mix'])
  })

  test('the same bytes from another order of adapters', async () => {
    const read = async (out: string) => readFile(join(out, 'adapter_model.safetensors'))
    await combineCommand({ base, adapter, out: join(folder, '1'), method: 'svd', rank: '3' })
    await combineCommand({ base, adapter: [...adapter].reverse(), out: join(folder, '2'), method: 'svd', rank: '3' })
    expect(await read(join(folder, '1'))).toEqual(await read(join(folder, '2')))
  })
})

test('prints energy kept and error, per module where a rank was cut, and as JSON', async () => {
  await combineCommand({ base, adapter, out: join(folder, '1'), method: 'svd', rank: '3' })
  expect(printed).toMatch(/energy kept \d+\.\d{4} %, Frobenius error \d/)
  expect(printed).toMatch(/model\.layers\.1\.mlp\.down_proj +3 +\d/)
  printed = ''
  const compat = { method: 'linear', peftCompat: true, json: true }
  await combineCommand({ base, adapter: adapter.slice(0, 2), out: join(folder, '2'), ...compat })
  const { recipe, weights, modules, notes, total } = JSON.parse(printed)
  expect(recipe).toEqual({ method: 'linear', peftCompat: true })
  expect(weights).toEqual({ a: 0.7, b: -0.4 })
  expect(modules).toHaveLength(2)
  expect(notes[0]).toContain('cross terms')
  expect(total).toEqual({ energyKept: 1, frobeniusError: 0 })
})

describe('refuses and leaves nothing behind', () => {
  test.each<[string, object, RegExp]>([
    ['a rank that is no number', { method: 'svd', rank: 'four' }, /--rank "four" is not a number/],
    ['an empty number', { method: 'svd', rank: '' }, /--rank "" is not a number/],
    ['an unknown PEFT version', { peftCompat: '0.1' }, /--peft-compat "0.1"/],
    ['an unknown method', { method: 'average' }, /"average" is not known/],
    ['a density that is missing', { method: 'ties_svd' }, /needs a density/],
    ['a weight of 0', { adapter: [`a*0=${join(ORACLE, 'a')}`] }, /weight is 0/],
    ['a folder without an adapter', { adapter: [`x=${ORACLE}`] }, /adapter_config\.json is missing/],
    ['no adapters', { adapter: [] }, /at least one/],
  ])('%s', async (_, options, message) => {
    await expect(combineCommand({ base, adapter, out: join(folder, 'mix'), ...options })).rejects.toThrow(message)
    expect(await readdir(folder)).toEqual([])
  })

  test('an output that is not empty', async () => {
    const out = join(folder, 'mix')
    await combineCommand({ base, adapter, out })
    await expect(combineCommand({ base, adapter, out })).rejects.toThrow(/is not empty/)
    await expect(combineCommand({ base, adapter, out: join(out, 'adapter_config.json') })).rejects.toThrow(/is a file/)
  })
})
