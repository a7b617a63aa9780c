// Tokens a second of the demo's decode step on each provider that this machine has, with an adapter per row and without
// any low-rank path. `node bench/providers.ts [cpu,wasm,webgpu,cuda]` writes bench/results/providers.json. A device in
// software (SwiftShader) shows that the path runs, and nothing about the speed of a GPU; the name of the device is told.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compile } from '../compiler/compile.ts'
import { type OpenModel, openModel } from '../gpu-backend/engine/open.ts'
import { chooseProvider } from '../gpu-backend/engine/provider.ts'
import type { Provider } from '../gpu-backend/engine/provider-choice.ts'
import { adapterReader } from '../gpu-backend/engine/store.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { quantile, type Row, record } from './record.ts'

const DEMO = join(import.meta.dirname, '..', 'examples', 'demo')
const NAMES = ['triage', 'dates', 'clauses']
const PROVIDERS: readonly Provider[] = ['cpu', 'wasm', 'webgpu', 'cuda']
const ROWS = [1, 4]
const PAST_TOKENS = 16
const WARM_UP = 1
/** Steps in software take seconds, so they are few. */
const STEPS: Readonly<Record<Provider, number>> = { cpu: 200, wasm: 60, webgpu: 9, cuda: 200 }

interface Case {
  readonly opened: OpenModel
  readonly rows: number
  readonly routed: boolean
  readonly ms: number[]
  readonly step: () => Promise<unknown>
}

const asked = process.argv[2]?.split(',') ?? PROVIDERS
const scratch = await mkdtemp(join(tmpdir(), 'sidepath-bench-'))
try {
  const artifacts = { routed: await compileDemo('routed', NAMES), plain: await compileDemo('merged', ['triage']) }
  const rows: Row[] = []
  for (const provider of PROVIDERS.filter((name) => asked.includes(name))) {
    const usable = await chooseProvider(provider).then(
      () => true,
      (error: Error) => console.log(`${error.message}\n`),
    )
    if (usable) rows.push(...(await measure(provider, artifacts)))
    if (usable) console.log(`${provider}: measured`)
  }
  record('providers', 'node bench/providers.ts', rows)
} finally {
  await rm(scratch, { recursive: true, force: true })
}
// Dawn keeps threads of its own.
process.exit(0)

async function compileDemo(target: 'routed' | 'merged', names: readonly string[]): Promise<string> {
  const artifact = join(scratch, target)
  const out = await stageFolder(artifact)
  const adapters = names.map((name) => ({ name, folder: openFolder(join(DEMO, 'adapters', name)) }))
  await compile({ base: openFolder(join(DEMO, 'base')), adapters, target }, out, nodeHost)
  await out.commit()
  return artifact
}

async function measure(provider: Provider, artifacts: { routed: string; plain: string }): Promise<Row[]> {
  const cases: Case[] = []
  for (const rows of ROWS) {
    cases.push(
      await prepare(artifacts.plain, provider, rows, false),
      await prepare(artifacts.routed, provider, rows, true),
    )
  }
  // Alternating, so that what else the machine does meets all of them.
  for (let at = 0; at < WARM_UP + STEPS[provider]; at++) {
    for (const { step, ms } of cases) {
      const start = performance.now()
      await step()
      if (at >= WARM_UP) ms.push(performance.now() - start)
    }
  }
  const results = ROWS.flatMap((count) => {
    const [plain, routed] = [false, true].map((wanted) =>
      cases.find(({ rows, routed }) => rows === count && routed === wanted),
    ) as [Case, Case]
    const what = `decode of examples/demo, ${plain.opened.provider}, ${count} ${count === 1 ? 'row' : 'rows'}`
    const perSecond = ({ ms }: Case) => ms.map((one) => Math.round((count * 1e5) / one) / 100)
    const ratio = quantile(routed.ms, 0.5) / quantile(plain.ms, 0.5)
    return [
      { what: `${what}, no low-rank path`, value: tokens(perSecond(plain)), samples: perSecond(plain) },
      { what: `${what}, an adapter per row`, value: tokens(perSecond(routed)), samples: perSecond(routed) },
      { what: `${what}, time of a step, routed ÷ plain`, value: `${ratio.toFixed(2)}×` },
    ]
  })
  for (const { opened } of cases) await opened.session.release()
  return results
}

function tokens(samples: readonly number[]): string {
  const median = quantile(samples, 0.5)
  return `${median < 10 ? median.toFixed(1) : median.toFixed(0)} tokens/s`
}

async function prepare(artifact: string, provider: Provider, count: number, routed: boolean): Promise<Case> {
  const config = {
    artifact,
    provider,
    slots: 8,
    bankRank: undefined,
    maxRows: count,
    kvBudgetBytes: 2 ** 28,
    threads: 0,
  }
  const opened = await openModel(config)
  const { manifest, model, bank } = opened
  if (routed) {
    const read = adapterReader(manifest, bank!.rank, [join(artifact, 'adapters')])
    for (let slot = 1; slot <= 8; slot++)
      bank!.write(slot, bank!.prepare(await read(manifest.adapters[slot % NAMES.length]!.digest)))
  }
  const slotOf = (at: number): number => (routed ? at + 1 : 0)
  const rows = Array.from({ length: count }, () => model.open(PAST_TOKENS + WARM_UP + STEPS[provider]))
  const prompt = Array.from({ length: PAST_TOKENS }, (_, at) => 300 + at)
  await model.forward(rows.map((row, at) => ({ row, slot: slotOf(at), tokens: prompt, logits: 'none' })))
  const step = () => model.forward(rows.map((row, at) => ({ row, slot: slotOf(at), tokens: [42], logits: 'last' })))
  return { opened, rows: count, routed, ms: [], step }
}
