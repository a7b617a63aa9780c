// The mixed soak: `SECONDS=600 node bench/soak.ts`. Fails where one answer differs from that of the same request alone.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { record } from './record.ts'
import { compileDemoTo } from './soak/demo.ts'
import { growthOf } from './soak/growth.ts'
import { soak } from './soak/mixed-load.ts'

const SECONDS = Number(process.env.SECONDS ?? 600)
const SEED = Number(process.env.SEED ?? 20261124)
/** Caches fill and the heap finds its size in this part of the time. */
const WARM_UP = 0.3
/** Of the mean, over the rest of the time; below it a line through the noise of a collector says nothing. */
const MAX_GROWTH = 0.05

const scratch = await mkdtemp(join(tmpdir(), 'sidepath-soak-'))
try {
  const { artifact, digests } = await compileDemoTo(join(scratch, 'artifact'))
  const result = await soak({ artifact, digests, scratch, seconds: SECONDS, seed: SEED })
  const mib = result.rss.map((bytes) => Math.round((bytes / 2 ** 20) * 10) / 10)
  const { growth, mean } = growthOf(mib.slice(Math.floor(mib.length * WARM_UP)))
  const what = `${SECONDS} s mixed soak`
  const { idle, failed, loads, different } = result
  record('soak', `SECONDS=${SECONDS} SEED=${SEED} node bench/soak.ts`, [
    { what: `${what}: answers equal to the same request alone, greedy and seeded`, value: `${result.equal}` },
    { what: `${what}: answers that differ`, value: `${different.length}` },
    {
      what: `${what}: furthest log-probability from that alone (1e-4 is allowed)`,
      value: result.furthest.toExponential(1),
    },
    { what: `${what}: tokens of those answers; prompt tokens reused`, value: `${result.tokens}; ${result.hitTokens}` },
    { what: `${what}: hung up in the middle, with the beginning of the answer alone`, value: `${result.aborted}` },
    { what: `${what}: answered 429; other errors`, value: `${result.refused}; ${JSON.stringify(failed)}` },
    { what: `${what}: loads and unloads beside it, by status`, value: JSON.stringify(loads) },
    { what: `${what}: an adapter of NaN refused; served`, value: `${result.badRefused}; ${result.badServed}` },
    { what: `${what}: rows, waiting, KV in use and slots in use after it`, value: Object.values(idle).join(', ') },
    {
      what: `${what}: growth of RSS over the last ${100 * (1 - WARM_UP)} % of it, by a line (${100 * MAX_GROWTH} % is allowed)`,
      value: `${growth.toFixed(1)} MiB, ${((growth / mean) * 100).toFixed(1)} % of ${mean.toFixed(0)} MiB`,
    },
  ])
  const raw = join(import.meta.dirname, 'results', 'raw')
  await mkdir(raw, { recursive: true })
  await writeFile(join(raw, 'soak.json'), `${JSON.stringify({ rssMibEachSecond: mib, different })}\n`)
  const broken = different.length + result.badServed + Object.keys(failed).length
  const leftOver = Object.values(idle).some((value) => value !== 0)
  if (broken > 0 || leftOver || growth > MAX_GROWTH * mean) process.exitCode = 1
} finally {
  await rm(scratch, { recursive: true, force: true })
}
