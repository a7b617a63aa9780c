// Encoders against transformers, PEFT and sentence-transformers (encoders-oracle.py): every route to the same numbers.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { EncoderManifest } from '../../compiler/contract.ts'
import { type CompiledAdapter, readAdapter } from '../../compiler/read-adapter.ts'
import { withFile } from '../../compiler/read-file.ts'
import { openFolder } from '../../runtime/disk.ts'
import { findModel } from '../../scripts/models.ts'
import {
  compileToDisk,
  ENCODERS,
  largestError,
  type Oracle,
  readOracle,
  runGraph,
  slotsFor,
  stackFeeds,
  TINY_NAMES,
  tinyAdapter,
  tinyPath,
} from '../encoder/encoders.ts'

const TOLERANCE = 1e-4
const NAMES = ['narrow', 'wide']

const batchOf = ({ lengths, input_ids, token_type_ids }: Oracle) => ({
  lengths,
  ids: input_ids,
  types: token_type_ids,
})

async function loadAll(path: string, manifest: EncoderManifest): Promise<CompiledAdapter[]> {
  const loaded = manifest.adapters.map(({ file = '' }) =>
    withFile(openFolder(path), file, (source) => readAdapter(source, manifest)),
  )
  return (await Promise.all(loaded)).flatMap((adapter) => adapter ?? [])
}

describe.each(TINY_NAMES)('%s equals transformers and PEFT within 1e-4 in a padded batch', (name) => {
  const base = openFolder(tinyPath(name))
  const adapters = NAMES.map((adapter) => tinyAdapter(name, adapter))

  it('as the plain base', async () => {
    const oracle = await readOracle(name)
    await using made = await compileToDisk(base, [], 'merged')
    const found = await runGraph(made.path, made.manifest, batchOf(oracle))
    expect(largestError(found, oracle.answers.base!)).toBeLessThan(TOLERANCE)
  })

  it('routed, all rows on one adapter, or each row on its own', async () => {
    const oracle = await readOracle(name)
    await using made = await compileToDisk(base, adapters, 'routed')
    const resident = await loadAll(made.path, made.manifest)
    for (const adapter of [undefined, ...NAMES]) {
      const rows = oracle.lengths.map(() => adapter)
      const found = await runGraph(made.path, made.manifest, batchOf(oracle), slotsFor(made.manifest, resident, rows))
      expect(largestError(found, oracle.answers[adapter ?? 'base']!)).toBeLessThan(TOLERANCE)
    }
    const mixed = ['wide', undefined, 'narrow']
    const found = await runGraph(made.path, made.manifest, batchOf(oracle), slotsFor(made.manifest, resident, mixed))
    for (const [row, adapter] of mixed.entries()) {
      expect(largestError(found, oracle.answers[adapter ?? 'base']!, [row])).toBeLessThan(TOLERANCE)
    }
  })

  it('stacked', async () => {
    const oracle = await readOracle(name)
    await using made = await compileToDisk(base, [tinyAdapter(name, 'wide')], 'stacked')
    const [wide] = await loadAll(made.path, made.manifest)
    const side = stackFeeds(made.manifest, wide!.modules)
    const found = await runGraph(made.path, made.manifest, batchOf(oracle), side)
    expect(largestError(found, oracle.answers.wide!)).toBeLessThan(TOLERANCE)
  })

  it.each(NAMES)('merged with %s, the head that the adapter was trained with included', async (adapter) => {
    const oracle = await readOracle(name)
    await using made = await compileToDisk(base, [tinyAdapter(name, adapter)], 'merged')
    const found = await runGraph(made.path, made.manifest, batchOf(oracle))
    expect(largestError(found, oracle.answers[`${adapter} merged`]!)).toBeLessThan(TOLERANCE)
  })
})

interface MiniLm {
  readonly sentences: readonly string[]
  readonly input_ids: readonly (readonly number[])[]
  readonly embeddings: readonly (readonly number[])[]
}

const minilm = findModel('minilm')
if (minilm === undefined) {
  process.stderr.write('SKIPPED: all-MiniLM-L6-v2 is not on this machine; run `node scripts/fetch-models.ts minilm`\n')
}

describe.skipIf(minilm === undefined)('all-MiniLM-L6-v2 equals sentence-transformers within 1e-4', () => {
  it('for 20 sentences in one batch', async () => {
    const oracle = JSON.parse(await readFile(join(ENCODERS, 'minilm.json'), 'utf8')) as MiniLm
    await using made = await compileToDisk(openFolder(minilm!), [], 'routed')
    expect(made.manifest).toMatchObject({
      task: 'sentence-embedding',
      pooling: { modes: ['mean'], normalize: true },
      maxTokens: 256,
    })
    const lengths = oracle.input_ids.map((row) => row.length)
    const rows = oracle.sentences.map(() => undefined)
    const side = slotsFor(made.manifest, [], rows)
    const found = await runGraph(made.path, made.manifest, { lengths, ids: oracle.input_ids }, side)
    expect(oracle.sentences).toHaveLength(20)
    expect(largestError(found, { sentence_embedding: oracle.embeddings })).toBeLessThan(TOLERANCE)
  })
})
