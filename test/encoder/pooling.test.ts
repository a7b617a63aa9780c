// sentence-transformers folders: every pooling against the numbers of that library, and what is refused by name.
import { describe, expect, it } from 'vitest'
import { openEncoder } from '../../compiler/encoder/open.ts'
import { openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from '../compiler/failing.ts'
import { compileToDisk, largestError, readOracle, runGraph, tinyPath, withFiles } from './encoders.ts'

const TOLERANCE = 1e-5
const bert = openFolder(tinyPath('bert'))
const TRANSFORMER = { idx: 0, name: '0', path: '', type: 'sentence_transformers.models.Transformer' }
const POOLING = { idx: 1, name: '1', path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }
const NORMALIZE = { idx: 2, name: '2', path: '2_Normalize', type: 'a.newer.path.Normalize' }

const sentence = (pooling: object | undefined, modules: readonly object[] = [TRANSFORMER, POOLING], more = {}) =>
  withFiles(bert, {
    'modules.json': JSON.stringify(modules),
    '1_Pooling/config.json': pooling === undefined ? undefined : JSON.stringify(pooling),
    ...more,
  })

const FLAGS = {
  cls: 'pooling_mode_cls_token',
  max: 'pooling_mode_max_tokens',
  mean: 'pooling_mode_mean_tokens',
  mean_sqrt_len: 'pooling_mode_mean_sqrt_len_tokens',
} as const

describe('a sentence embedding equals that of sentence-transformers', () => {
  it.each(['cls', 'max', 'mean', 'mean_sqrt_len', 'all'])('with pooling %s, padded on either side', async (mode) => {
    const { pooled, lengths, input_ids: ids, token_type_ids: types } = await readOracle('bert')
    const flags = Object.entries(FLAGS).map(([name, flag]) => [flag, mode === 'all' || name === mode])
    for (const [form, modules] of [
      ['plain', [TRANSFORMER, POOLING]],
      ['unit', [TRANSFORMER, POOLING, NORMALIZE]],
    ] as const) {
      await using made = await compileToDisk(sentence(Object.fromEntries(flags), modules), [], 'merged')
      for (const side of ['right', 'left'] as const) {
        const found = await runGraph(made.path, made.manifest, { lengths, ids, types, side })
        const expected = pooled?.[`${side} ${mode}`]?.[form] ?? []
        expect(largestError(found, { sentence_embedding: expected })).toBeLessThan(TOLERANCE)
      }
    }
  })

  it('with the one mode of the new spelling, which wins over the old flags', async () => {
    const config = { pooling_mode: 'max', [FLAGS.mean]: true }
    await using made = await compileToDisk(sentence(config), [], 'merged')
    expect(made.manifest.pooling).toEqual({ modes: ['max'], normalize: false })
  })
})

describe('what a pipeline has that is not supported is refused by name', () => {
  const open = (folder: ReturnType<typeof sentence>) => async () => (await openEncoder(folder)).close()
  it.each([
    ['a Dense module', [TRANSFORMER, POOLING, { ...NORMALIZE, type: 'x.Dense' }], '"Dense"'],
    ['an unknown order', [TRANSFORMER, NORMALIZE], '"Normalize"'],
    ['weights in a folder of their own', [{ ...TRANSFORMER, path: '0_Transformer' }, POOLING], 'in the folder itself'],
  ])('%s', async (_, modules, word) => {
    const { problems } = await openEncoder(sentence({}, modules)).then(
      () => ({ problems: [] }),
      (error: { problems: { message: string }[] }) => error,
    )
    expect(problems.map(({ message }) => message).join()).toContain(word)
  })

  it.each([
    ['lasttoken', { pooling_mode_lasttoken: true }, 'config-unsupported', '"lasttoken"'],
    ['a mode from an object', { pooling_mode: 'constructor' }, 'config-unsupported', '"constructor"'],
    ['pooling without the prompt', { include_prompt: false }, 'config-unsupported', 'include_prompt'],
    ['no config of the pooling', undefined, 'file-missing', '1_Pooling/config.json'],
  ] as const)('%s', (_, config, code, word) => expectRefusal(open(sentence(config)), code, word))

  it('a path that leaves the folder', () =>
    expectRefusal(open(sentence({}, [TRANSFORMER, { ...POOLING, path: '../..' }])), 'config-invalid', 'path'))

  it('takes max_seq_length, but never more than there are positions', async () => {
    const limit = (max_seq_length: number) =>
      sentence({}, undefined, { 'sentence_bert_config.json': JSON.stringify({ max_seq_length }) })
    for (const [given, taken] of [
      [7, 7],
      [4096, 41],
    ] as const) {
      const opened = await openEncoder(limit(given))
      expect(opened.config.maxTokens).toBe(taken)
      await opened.close()
    }
  })
})
