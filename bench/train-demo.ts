// `sidepath train` on the demo's base, from scratch, once a task: minutes, and exact answers on the 200 held-out prompts.
// PYTHON (no packages needed) writes the examples. Arguments: tasks, whose rows of the last result are replaced; all three
// without.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEngine } from '../gpu-backend/engine/client.ts'
import { defaultEngineConfig } from '../gpu-backend/engine/request.ts'
import { openText } from '../gpu-backend/text/tokenizer.ts'
import { openFolder } from '../runtime/disk.ts'
import { type Row, record } from './record.ts'

const DEMO = 'examples/demo'
const EXAMPLES = 12_000
/** The longest right answer has 10 tokens and its end. */
const MAX_TOKENS = 16
const COMMON = '--batch 16 --eval-share 0.005 --eval-every 100'
const OPTIONS: Readonly<Record<string, string>> = {
  triage: '--r 8 --alpha 16 --target-modules all-linear --steps 600 --lr 3e-3',
  dates: '--r 16 --alpha 32 --target-modules all-linear --steps 1000 --lr 3e-3',
  clauses: '--r 8 --alpha 16 --target-modules all-linear --steps 400 --lr 3e-3',
}
const RESULT = join(import.meta.dirname, 'results/train-demo.json')
const tasks = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(OPTIONS)

const lines = readFileSync(join(DEMO, 'heldout.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Record<string, string>)
const folder = mkdtempSync(join(tmpdir(), 'sidepath-train-demo-'))
const rows: Row[] = []
for (const task of tasks) {
  const data = join(folder, `${task}.jsonl`)
  const python = process.env.PYTHON || 'python3'
  execFileSync(python, [`${DEMO}/train/tasks.py`, '--training', String(EXAMPLES), '--task', task, '--out', data])
  const out = join(folder, task)
  const options = `${OPTIONS[task]} ${COMMON}`
  const started = performance.now()
  const cpuSeconds = sidepath('train', '--base', `${DEMO}/base`, '--data', data, '--out', out, ...options.split(' '))
  const minutes = (performance.now() - started) / 60_000
  const right = await countRight(task, join(out, 'adapter'))
  const what = `sidepath train --base ${DEMO}/base --data ${task}.jsonl ${options}, ${cpus().length} cores`
  rows.push({ what: `${what}: whole command`, value: `${minutes.toFixed(1)} min` })
  rows.push({ what: `${what}: processor time`, value: `${(cpuSeconds / 60).toFixed(1)} min` })
  rows.push({ what: `${task}: exact answers on held-out prompts`, value: `${right} of ${lines.length}` })
  console.log(task, minutes, right)
}
const isOf = (task: string, { what }: Row) => what.includes(`${task}.jsonl`) || what.startsWith(`${task}:`)
const before = existsSync(RESULT) ? (JSON.parse(readFileSync(RESULT, 'utf8')) as { rows: Row[] }).rows : []
rmSync(folder, { recursive: true })
record(
  'train-demo',
  'node bench/train-demo.ts',
  Object.keys(OPTIONS).flatMap((task) => (tasks.includes(task) ? rows : before).filter((row) => isOf(task, row))),
)

/** Gives the seconds that all cores together worked. */
function sidepath(...args: string[]): number {
  const command = ['--import', './bench/process-usage.ts', 'cli/bin.js', ...args]
  const { status, stderr } = spawnSync(process.execPath, command, { stdio: ['ignore', 'inherit', 'pipe'] })
  const said = stderr.toString().trim().split('\n')
  if (status !== 0) throw new Error(`sidepath ${args[0]} ended with ${status}: ${said.join('\n')}`)
  return (JSON.parse(said.at(-1) ?? '') as { cpuSeconds: number }).cpuSeconds
}

async function countRight(task: string, adapter: string): Promise<number> {
  const artifact = join(folder, `${task}-artifact`)
  sidepath('compile', '--base', `${DEMO}/base`, '--adapter', `${task}=${adapter}`, '--out', artifact, '--no-verify')
  const manifest = JSON.parse(readFileSync(join(artifact, 'manifest.json'), 'utf8')) as {
    adapters: { digest: string }[]
  }
  const text = await openText(openFolder(artifact))
  const config = { ...defaultEngineConfig, artifact, maxQueue: lines.length, maxRows: 16 }
  const engine = await startEngine(config, () => {})
  const answers = await Promise.all(
    lines.map(async ({ prompt = '' }) => {
      const request = {
        promptIds: text?.encodeChat([{ role: 'user', content: prompt }], 512) ?? [],
        adapter: manifest.adapters[0]?.digest ?? null,
        maxTokens: MAX_TOKENS,
        sampling: { temperature: 0, topP: 1, seed: 0 },
        stop: [],
        tenant: task,
      }
      let answer = ''
      for await (const piece of engine.generate(request)) answer += piece.text
      return answer.trim()
    }),
  )
  await engine.close()
  return lines.filter((line, at) => answers[at] === line[task]).length
}
