// The demo's promise, measured again through our own stack: each adapter answers its task, nothing else does.
import { readFileSync } from 'node:fs'
import { beforeAll, expect, test } from 'vitest'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import { openFolder } from '../../runtime/disk.ts'
import { type Artifact, compileDemo, demoFiles } from './artifacts.ts'
import { collect, openInProcess } from './in-process.ts'

const TASKS = ['triage', 'dates', 'clauses'] as const
const VARIANTS = ['base', ...TASKS] as const
/** The longest right answer has 10 tokens and its end. */
const MAX_TOKENS = 16

type Line = Record<(typeof TASKS)[number] | 'prompt', string>
const lines = readFileSync(demoFiles.heldout, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Line)
const share = new Map<string, number>()

beforeAll(async () => {
  const demo: Artifact = await compileDemo()
  const text = (await openText(openFolder(demo.path)))!
  // Base and adapters share every batch: this is also the largest test of rows that keep to themselves.
  const engine = await openInProcess(demo.path, { maxQueue: lines.length * VARIANTS.length, maxRows: 16 })
  const answers = await Promise.all(
    lines.flatMap(({ prompt }) => {
      const promptIds = text.encodeChat([{ role: 'user', content: prompt }], 512)
      return VARIANTS.map((variant) => {
        const adapter = variant === 'base' ? null : demo.digest(variant)
        return collect(engine, { promptIds, adapter, maxTokens: MAX_TOKENS, tenant: variant })
      })
    }),
  )
  for (const [at, variant] of VARIANTS.entries()) {
    for (const task of TASKS) {
      const right = lines.filter((line, row) => answers[row * VARIANTS.length + at]!.text.trim() === line[task])
      share.set(`${variant} on ${task}`, right.length / lines.length)
    }
  }
})

test('there are 200 lines', () => {
  expect(lines).toHaveLength(200)
})

test.each(TASKS)('the adapter %s answers its task exactly, in at least 95 of 100 cases', (task) => {
  expect(share.get(`${task} on ${task}`)).toBeGreaterThanOrEqual(0.95)
})

test.each(TASKS)('%s is answered by the base and by other adapters in at most 5 of 100 cases', (task) => {
  for (const variant of VARIANTS) {
    if (variant !== task) expect(share.get(`${variant} on ${task}`), variant).toBeLessThanOrEqual(0.05)
  }
})
