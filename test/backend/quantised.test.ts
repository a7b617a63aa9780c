// The backend serves a quantised artifact as any other: adapters in slots, rows of all in one batch.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { temporaryFolder } from '../e2e/running.ts'
import { demoFiles } from './artifacts.ts'
import { collect, openInProcess } from './in-process.ts'

const DEMO = join(import.meta.dirname, '../../examples/demo')
const TASKS = ['triage', 'dates', 'clauses'] as const
const LINES = 24

let folder: Awaited<ReturnType<typeof temporaryFolder>>
beforeAll(async () => {
  folder = await temporaryFolder()
})
afterAll(() => folder.remove())

test('each adapter answers most of its task over an int4 base of blocks of 32, in mixed batches', async () => {
  const path = join(folder.path, 'int4')
  const staged = await stageFolder(path)
  const adapters = TASKS.map((name) => ({ name, folder: openFolder(join(DEMO, 'adapters', name)) }))
  const quantise = { method: 'int4', block: 32, grid: 'affine', rounding: 'search', keep: [], eight: [] } as const
  const base = openFolder(join(DEMO, 'base'))
  const { manifest } = await compile({ base, adapters, target: 'routed', quantise }, staged, nodeHost)
  await staged.commit(path)
  const text = (await openText(openFolder(path)))!
  const lines = readFileSync(demoFiles.heldout, 'utf8')
    .trim()
    .split('\n')
    .slice(0, LINES)
    .map((line) => JSON.parse(line) as Record<(typeof TASKS)[number] | 'prompt', string>)
  const engine = await openInProcess(path, { maxQueue: LINES * TASKS.length, maxRows: 16 })
  const answers = await Promise.all(
    lines.flatMap(({ prompt }) =>
      TASKS.map((task) => {
        const adapter = manifest.adapters.find(({ name }) => name === task)!.digest
        const promptIds = text.encodeChat([{ role: 'user', content: prompt }], 512)
        return collect(engine, { promptIds, adapter, maxTokens: 16, tenant: task })
      }),
    ),
  )
  for (const [at, task] of TASKS.entries()) {
    const right = lines.filter((line, row) => answers[row * TASKS.length + at]!.text.trim() === line[task])
    expect(right.length / LINES, task).toBeGreaterThan(0.75)
  }
})
