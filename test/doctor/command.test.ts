// `sidepath doctor` as a process: what it prints, writes and exits with, and what it refuses.
import { existsSync } from 'node:fs'
import { cp, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DoctorReportSchema } from '../../compiler/doctor/report.ts'
import { encodeSafetensors } from '../../compiler/safetensors/write.ts'
import { readTensors } from '../combine/adapters.ts'
import { sidepath, temporaryFolder } from '../e2e/running.ts'
import { DEMO, ORACLE, TINY } from './adapters.ts'

let folder: Awaited<ReturnType<typeof temporaryFolder>>
beforeAll(async () => {
  folder = await temporaryFolder()
})
afterAll(() => folder.remove())

const adapter = (path: string) => join(ORACLE, path)
const task = join(ORACLE, 'decaying-1/task.jsonl')

async function refusal(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await sidepath(['doctor', ...args])
  expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' })
  expect(stderr).not.toMatch(/\n\s+at /)
  return stderr
}

async function file(name: string, content: string): Promise<string> {
  await writeFile(join(folder.path, name), content)
  return join(folder.path, name)
}

describe('sidepath doctor', () => {
  it('prints a table that says what is wrong and what could be', async () => {
    const { code, stdout } = await sidepath(['doctor', adapter('tailed/r1'), adapter('tailed/r16'), '--base', TINY])
    expect(code).toBe(0)
    expect(stdout).toContain('r1: at-limit\nr may be too low: 4 of 4 modules are at their limit')
    expect(stdout).toContain('r16: spare\nr could be 8')
    expect(stdout).toMatch(/r1 \+ r16 +4 /)
  })

  it('gives the report as JSON, with losses, and fails a gate by name', async () => {
    const gate = await file('gate.json', '{"schema":"sidepath.gate/1","allowFlagged":false,"maxForgettingKl":10}')
    const html = join(folder.path, 'report.html')
    const { code, stdout, stderr } = await sidepath([
      ...['doctor', adapter('decaying-1/r1'), adapter('decaying-1/r8'), '--base', TINY, '--data', task],
      ...['--general', join(ORACLE, 'flat/task.jsonl'), '--gate', gate, '--html', html, '--json'],
    ])
    expect(code).toBe(1)
    expect(stderr).toBe('sidepath: the gate failed: allowFlagged (r1)\n')
    const { gate: results, ...report } = JSON.parse(stdout)
    expect(DoctorReportSchema.parse(report).adapters.map(({ verdict }) => verdict)).toEqual(['too-low', 'fits'])
    expect(results.passed).toBe(false)
    expect(await readFile(html, 'utf8')).toContain('Gate: <span class="failed">failed</span>')
  })

  it('writes an adapter of lower rank that the doctor then finds to be of that rank', async () => {
    const out = join(folder.path, 'r8')
    const first = await sidepath([
      'doctor',
      adapter('decaying-1/r16'),
      '--base',
      TINY,
      '--compress-to',
      '8',
      '--out',
      out,
      '--json',
    ])
    expect(first.code).toBe(0)
    const { compressed } = JSON.parse(first.stdout)
    expect(compressed.report).toHaveLength(4)
    const second = await sidepath(['doctor', out, '--base', TINY, '--json'])
    const [found] = JSON.parse(second.stdout).adapters
    expect(
      found.modules.map(({ r, rank, scaling }: { r: number; rank: number; scaling: number }) => [r, rank, scaling]),
    ).toEqual(Array.from({ length: 4 }, () => [8, 8, 1]))
    expect((await readdir(out)).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
  })

  it('measures forgetting on its own text where the base has a tokenizer', async () => {
    const data = await file(
      'task.jsonl',
      '{"prompt":"Message: hello\\nAnswer:\\n","completion":"billing"}\n{"text":"In the beginning God created"}\n{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"payment"}]}\n',
    )
    const { code, stdout, stderr } = await sidepath([
      ...[
        'doctor',
        join(DEMO, 'adapters/clauses'),
        '--base',
        join(DEMO, 'base'),
        '--data',
        data,
        '--tokens',
        '300',
        '--json',
      ],
    ])
    expect(code, stderr).toBe(0)
    const [found] = JSON.parse(stdout).adapters
    expect(found.forgetting.tokens).toBeGreaterThan(290)
    expect(found.task.tokens).toBeLessThan(30)
  })
})

describe('sidepath doctor refuses', () => {
  it('an adapter of another base, and an adapter that is not there', async () => {
    expect(await refusal(join(DEMO, 'adapters/triage'), '--base', TINY)).toMatch(/triage/)
    expect(await refusal(join(folder.path, 'nowhere'), '--base', TINY)).toMatch(/nowhere" does not exist/)
  })

  it('one name twice, and a weight', async () => {
    expect(await refusal(adapter('flat/r2'), adapter('tailed/r2'), '--base', TINY)).toMatch(/"r2" is given twice/)
    expect(await refusal(`a*0.5=${adapter('flat/r2')}`, '--base', TINY)).toMatch(/a weight changes no rank/)
  })

  it.each([
    ['not JSON', '{"token_ids":[1,2]}\n{"token_ids":', /bad\.jsonl:2: not JSON/],
    ['of no known form', '{"question":"?"}', /bad\.jsonl:1: has none of "text"/],
    ['of a token that the base does not have', '{"token_ids":[1,96]}', /bad\.jsonl:1: token id 96; the base has 96/],
    ['of text for a base without a tokenizer', '{"text":"hello"}', /bad\.jsonl:1: the base has no tokenizer/],
    ['empty', '\n\n', /has no text of two tokens/],
  ])('data that is %s', async (_, content, said) => {
    const data = await file('bad.jsonl', content)
    expect(await refusal(adapter('flat/r2'), '--base', TINY, '--data', data)).toMatch(said)
  })

  it('targets that are none, and output that is in the way', async () => {
    const base = ['--base', TINY]
    expect(await refusal(adapter('flat/r2'), ...base, '--compress-to', '8')).toMatch(/needs --out/)
    expect(await refusal(adapter('flat/r2'), ...base, '--out', 'x')).toMatch(/goes with --compress-to/)
    const out = join(folder.path, 'new')
    expect(await refusal(adapter('flat/r2'), ...base, '--compress-to', 'all', '--out', out)).toMatch(/give a rank/)
    expect(await refusal(adapter('flat/r2'), ...base, '--compress-to', '0', '--out', out)).toMatch(/give a rank from 1/)
    expect(existsSync(out)).toBe(false)
    await cp(adapter('flat/r1'), join(folder.path, 'taken'), { recursive: true })
    expect(
      await refusal(adapter('flat/r2'), ...base, '--compress-to', '1', '--out', join(folder.path, 'taken')),
    ).toMatch(/is not empty/)
  })

  it('a gate that is not there or not one, and intruders among too many', async () => {
    const base = ['--base', TINY]
    expect(await refusal(adapter('flat/r2'), ...base, '--gate', join(folder.path, 'no.json'))).toMatch(/does not exist/)
    const gate = await file('typo.json', '{"schema":"sidepath.gate/1","maxIntruder":1}')
    expect(await refusal(adapter('flat/r2'), ...base, '--gate', gate)).toMatch(/maxIntruder/)
    expect(await refusal(adapter('flat/r2'), ...base, '--intruders', '65')).toMatch(/from 1 to 64/)
    expect(await refusal(adapter('flat/r2'), ...base, '--data', task, '--tokens', '1')).toMatch(/from 2 to/)
  })

  it('an adapter that a smaller rank would lose something of', async () => {
    const dora = join(folder.path, 'dora')
    await cp(adapter('flat/r2'), dora, { recursive: true })
    const config = JSON.parse(await readFile(join(dora, 'adapter_config.json'), 'utf8'))
    await writeFile(join(dora, 'adapter_config.json'), JSON.stringify({ ...config, use_dora: true }))
    const tensors = new Map(await readTensors(join(dora, 'adapter_model.safetensors')))
    for (const [name, { shape }] of [...tensors]) {
      if (!name.endsWith('.lora_B.weight')) continue
      const [out = 0] = shape
      const magnitude = { shape: [out], data: new Float32Array(out).fill(1) }
      tensors.set(name.replace('.lora_B.weight', '.lora_magnitude_vector'), magnitude)
    }
    await writeFile(join(dora, 'adapter_model.safetensors'), encodeSafetensors(tensors, { format: 'pt' }))
    const { stdout } = await sidepath(['doctor', dora, '--base', TINY])
    expect(stdout).toContain('note: dora is DoRA: the figures are of s·B·A')
    const said = await refusal(dora, '--base', TINY, '--compress-to', '2', '--out', join(folder.path, 'lost'))
    expect(said).toMatch(/more than lora_A and lora_B/)
  })
})
