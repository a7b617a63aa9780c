// Bad input on the command line: one clear error that says what to do, exit 1, and what was there stays untouched.
import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort, sidepath, temporaryFolder } from '../e2e/running.ts'

const TINY = join(import.meta.dirname, '..', 'parity', 'oracle', 'tiny')
const DEMO = join(import.meta.dirname, '..', '..', 'examples', 'demo')

let folder: Awaited<ReturnType<typeof temporaryFolder>>
beforeAll(async () => {
  folder = await temporaryFolder()
})
afterAll(() => folder.remove())

/** Runs the command, which must fail as the user's fault, and gives what it said. */
async function refusal(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await sidepath(args)
  expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(/^sidepath: |^error: /)
  expect(stderr).not.toMatch(/\n\s+at /)
  return stderr
}

async function copyOf(source: string, name: string): Promise<string> {
  const target = join(folder.path, name)
  await cp(source, target, { recursive: true })
  return target
}

describe('compile', () => {
  it('refuses a truncated base by name and leaves no output', async () => {
    const base = await copyOf(join(TINY, 'base'), 'truncated')
    const { length } = await readFile(join(base, 'model.safetensors'))
    await truncate(join(base, 'model.safetensors'), length - 5)
    const out = join(folder.path, 'out-truncated')
    expect(await refusal('compile', '--base', base, '--out', out)).toMatch(/model\.safetensors/)
    expect(existsSync(out)).toBe(false)
    expect((await readdir(folder.path)).filter((name) => name.endsWith('.partial'))).toEqual([])
  })

  it('refuses an adapter that was trained for another base', async () => {
    const out = join(folder.path, 'out-other')
    const said = await refusal(
      ...['compile', '--base', join(TINY, 'base'), '--adapter', join(DEMO, 'adapters', 'triage'), '--out', out],
    )
    expect(said).toMatch(/triage/)
    expect(said).toMatch(/base/)
    expect(existsSync(out)).toBe(false)
  })

  it('refuses a config that contradicts its tensors and says both numbers', async () => {
    const adapter = await copyOf(join(TINY, 'a'), 'contradicts')
    const path = join(adapter, 'adapter_config.json')
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), r: 11 }))
    const said = await refusal(
      ...['compile', '--base', join(TINY, 'base'), '--adapter', adapter, '--out', join(folder.path, 'out-contradicts')],
    )
    expect(said).toMatch(/r=5/)
    expect(said).toMatch(/r=11/)
  })

  it('refuses to write into a folder that holds something else, and leaves it alone', async () => {
    const out = join(folder.path, 'precious')
    await mkdir(out)
    await writeFile(join(out, 'thesis.txt'), 'years of work')
    expect(await refusal('compile', '--base', join(TINY, 'base'), '--out', out)).toMatch(/not empty/)
    expect(await readFile(join(out, 'thesis.txt'), 'utf8')).toBe('years of work')
    expect(await readdir(out)).toEqual(['thesis.txt'])
  })

  it('says which folder is missing', async () => {
    expect(await refusal('compile', '--base', './no-such-base', '--out', join(folder.path, 'x'))).toMatch(
      /no-such-base/,
    )
  })

  it('names an unknown option and an unknown verb', async () => {
    expect(await refusal('compile', '--bsae', 'x')).toMatch(/--bsae/)
    expect(await refusal('complie')).toMatch(/complie/)
  })

  it('succeeds twice on the same output, and refuses another artifact there', async () => {
    const out = join(folder.path, 'out-twice')
    const args = ['compile', '--base', join(TINY, 'base'), '--out', out, '--json']
    const [first, second] = [await sidepath(args), await sidepath(args)]
    expect([first.code, second.code]).toEqual([0, 0])
    expect(JSON.parse(second.stdout).id).toBe(JSON.parse(first.stdout).id)
    const adapter = ['--adapter', `a=${join(TINY, 'a')}`]
    expect(await refusal('compile', '--base', join(TINY, 'base'), ...adapter, '--out', out)).toMatch(/another artifact/)
  })
})

describe('merge', () => {
  it('refuses a weight that is not a number', async () => {
    const adapter = `a*heavy=${join(TINY, 'a')}`
    const said = await refusal(
      'merge',
      '--base',
      join(TINY, 'base'),
      '--adapter',
      adapter,
      '--out',
      join(folder.path, 'm'),
    )
    expect(said).toMatch(/"heavy" is not a number/)
  })
})

describe('score', () => {
  it('prints the log-probabilities that transformers computes', async () => {
    const oracle = JSON.parse(await readFile(join(TINY, '..', 'demo.json'), 'utf8'))
    const out = join(folder.path, 'demo')
    const adapters = ['triage', 'dates', 'clauses'].flatMap((name) => ['--adapter', join(DEMO, 'adapters', name)])
    const made = await sidepath(['compile', '--base', join(DEMO, 'base'), ...adapters, '--out', out])
    expect(made.code, made.stderr).toBe(0)
    const ids = oracle.score.ids.join(',')
    for (const [name, expected] of Object.entries<number[]>(oracle.score.logprobs_of_ids_from_1)) {
      const adapter = name === 'base' ? [] : ['--adapter', name]
      const { code, stdout, stderr } = await sidepath([
        'score',
        '--artifact',
        out,
        ...adapter,
        '--token-ids',
        ids,
        '--json',
      ])
      expect(code, stderr).toBe(0)
      const got = JSON.parse(stdout)
        .tokens.slice(1)
        .map((token: { logprob: number }) => token.logprob)
      expect(got.length).toBe(expected.length)
      for (const [index, value] of expected.entries()) expect(Math.abs(got[index] - value)).toBeLessThan(1e-4)
    }
    expect(await refusal('score', '--artifact', out, '--adapter', 'nobody', '--text', 'x')).toMatch(/nobody/)
    expect(await refusal('score', '--artifact', out, '--token-ids', '1,999999')).toMatch(/999999/)
  })

  it('says what is missing', async () => {
    expect(await refusal('score', '--artifact', TINY)).toMatch(/--text or --token-ids/)
    expect(await refusal('score', '--artifact', TINY, '--text', 'x')).toMatch(/manifest\.json/)
  })
})

describe('up', () => {
  it('says which port is in use and which option changes it', async () => {
    const port = await freePort()
    const server = createServer().listen(port, '127.0.0.1')
    const dataDir = join(folder.path, 'data-port')
    const said = await refusal(
      'up',
      '--port',
      `${port}`,
      '--backend-port',
      `${await freePort()}`,
      '--data-dir',
      dataDir,
    )
    server.close()
    expect(said).toMatch(new RegExp(`port ${port} is in use.*--port`))
  })

  it('refuses a data folder that is a file', async () => {
    const file = join(folder.path, 'a-file')
    await writeFile(file, 'kept')
    expect(await refusal('up', '--data-dir', file)).toMatch(/is a file/)
    expect(await readFile(file, 'utf8')).toBe('kept')
  })

  it('refuses a data folder that it cannot write', async () => {
    expect(await refusal('up', '--data-dir', '/proc/sidepath')).toMatch(/cannot be made there/)
  })

  it('refuses a port that is none', async () => {
    expect(await refusal('up', '--port', '99999')).toMatch(/1 to 65535/)
  })
})
