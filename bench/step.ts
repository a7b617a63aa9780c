// How long one decode step of the demo takes: without a low-rank path, with rows of the base, with an adapter per row.
// 96 to 316 tokens in the cache, a bank of 8 slots. `node bench/step.ts` writes bench/results/step.json.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compile } from '../compiler/compile.ts'
import type { Row } from '../gpu-backend/engine/model.ts'
import { type OpenModel, openModel } from '../gpu-backend/engine/open.ts'
import { adapterReader } from '../gpu-backend/engine/store.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { quantile, record } from './record.ts'

const ROOT = join(import.meta.dirname, '..')
const DEMO = join(ROOT, 'examples', 'demo')
const NAMES = ['triage', 'dates', 'clauses']
const ROWS = [1, 8]
const PAST_TOKENS = 96
const WARM_UP = 20
const STEPS = 200

interface Case {
  readonly rows: number
  readonly variant: 'no low-rank path' | 'base' | 'an adapter per row'
  readonly ms: number[]
  readonly step: () => Promise<unknown>
}

const scratch = await mkdtemp(join(tmpdir(), 'sidepath-bench-'))
try {
  const routed = await open('routed', NAMES)
  const plain = await open('merged', NAMES.slice(0, 1))
  await fillSlots(routed)
  const cases: Case[] = []
  for (const rows of ROWS) {
    cases.push(await prepare(plain, rows, 'no low-rank path'))
    cases.push(await prepare(routed, rows, 'base'))
    cases.push(await prepare(routed, rows, 'an adapter per row'))
  }
  // Alternating, so that what else the machine does meets all of them.
  for (let at = 0; at < WARM_UP + STEPS; at++) {
    for (const { step, ms } of cases) {
      const start = performance.now()
      await step()
      if (at >= WARM_UP) ms.push(performance.now() - start)
    }
  }
  const path = join(ROOT, 'node_modules/onnxruntime-node/package.json')
  const { version } = JSON.parse(await readFile(path, 'utf8')) as { version: string }
  record(
    'step',
    'node bench/step.ts',
    cases.map(({ rows, variant, ms }) => ({
      what: `one decode step of examples/demo, onnxruntime-node ${version}, ${rows} ${rows === 1 ? 'row' : 'rows'}, ${variant}`,
      value: `${quantile(ms, 0.5).toFixed(1)} ms`,
      samples: ms.map((sample) => Math.round(sample * 1000) / 1000),
    })),
  )
} finally {
  await rm(scratch, { recursive: true, force: true })
}

async function open(target: 'routed' | 'merged', names: readonly string[]): Promise<OpenModel> {
  const artifact = join(scratch, target)
  const out = await stageFolder(artifact)
  const adapters = names.map((name) => ({ name, folder: openFolder(join(DEMO, 'adapters', name)) }))
  await compile({ base: openFolder(join(DEMO, 'base')), adapters, target }, out, nodeHost)
  await out.commit()
  const rows = ROWS.reduce((sum, count) => sum + count * 2, 0)
  return openModel({ artifact, slots: 8, bankRank: undefined, maxRows: rows, kvBudgetBytes: 2 ** 30, threads: 0 })
}

/** Three adapters in eight slots: each slot is memory of its own, which is what a step has to read. */
async function fillSlots({ manifest, bank }: OpenModel): Promise<void> {
  const read = adapterReader(manifest, bank!.rank, [join(scratch, 'routed', 'adapters')])
  for (let slot = 1; slot <= 8; slot++)
    bank!.write(slot, bank!.prepare(await read(manifest.adapters[slot % NAMES.length]!.digest)))
}

async function prepare({ model }: OpenModel, count: number, variant: Case['variant']): Promise<Case> {
  const slotOf = (at: number): number => (variant === 'an adapter per row' ? at + 1 : 0)
  const need = PAST_TOKENS + WARM_UP + STEPS
  const rows: Row[] = Array.from({ length: count }, () => model.open(need))
  const prompt = Array.from({ length: PAST_TOKENS }, (_, at) => 300 + at)
  await model.forward(rows.map((row, at) => ({ row, slot: slotOf(at), tokens: prompt, logits: 'none' })))
  const step = () => model.forward(rows.map((row, at) => ({ row, slot: slotOf(at), tokens: [42], logits: 'last' })))
  return { rows: count, variant, ms: [], step }
}
