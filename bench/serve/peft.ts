// Against PEFT's mixed batch: eight rows with eight adapters, `adapter_names` on torch on the CPU. PYTHON: one that has torch,
// transformers and peft. Ours runs the 4-bit base; theirs a float32 one of the same shape, as PEFT has no 4-bit product on
// the CPU.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { RANK, smollm2, THREADS } from './fixture.ts'
import { ask, PROMPT_TOKENS, start } from './traffic.ts'

const CLIENTS = 8
/** PEFT makes a few tokens a second. */
const TOKENS = 24

export async function peft(): Promise<Row[]> {
  const python = process.env.PYTHON
  if (python === undefined) throw new Error('PYTHON names no Python that has torch, transformers and peft')
  const args = [CLIENTS, RANK, PROMPT_TOKENS, TOKENS, THREADS].map(String)
  const script = join(import.meta.dirname, 'peft-mixed.py')
  const child = spawn(python, [script, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async (): Promise<string> => {
    const { value, done } = await answers.next()
    if (done === true) throw new Error('the Python side has ended; its error is above')
    return value as string
  }
  const fixture = await smollm2()
  const engine = await start(fixture, { slots: CLIENTS, maxRows: CLIENTS })
  try {
    const versions = await answer()
    const digests = await Promise.all(Array.from({ length: CLIENTS }, (_, seed) => fixture.adapter(seed)))
    for (const digest of digests) await engine.load(digest)
    const rates = { ours: [] as number[], theirs: [] as number[] }
    const times = Number(process.env.TIMES ?? 3)
    for (let at = 0; at < 1 + times; at++) {
      child.stdin.write('run\n')
      const theirs = Number(await answer())
      const begun = performance.now()
      const tokens = await Promise.all(digests.map((digest) => ask(engine, digest, TOKENS)))
      const ours = (tokens.reduce((sum, count) => sum + count) / (performance.now() - begun)) * 1000
      if (at === 0) continue
      rates.ours.push(round(ours))
      rates.theirs.push(round(theirs))
    }
    const [ours, theirs] = [median(rates.ours), median(rates.theirs)]
    return [
      {
        what: `SmolLM2-135M, 8 rows with 8 different adapters, ${THREADS} threads: tokens a second ÷ those of adapter_names in ${versions}, float32`,
        value: `${(ours / theirs).toFixed(2)}× (${ours.toFixed(0)} of ${theirs.toFixed(0)})`,
        samples: rates.ours.map((rate, at) => round(rate / rates.theirs[at]!)),
      },
    ]
  } finally {
    child.kill()
    await engine.close()
    await fixture.remove()
  }
}
