// Folders of strangers: what leads out of them, and Hugging Face's cache, whose files are links.
import { cp, mkdir, mkdtemp, readdir, readFile, realpath, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openFolder, PathError } from '../../runtime/disk.ts'
import { TINY } from '../compiler/folders.ts'
import { sidepath } from '../e2e/running.ts'
import { sha256 } from '../pull/stand-in.ts'

let top: string
let folder: string
beforeEach(async () => {
  top = await realpath(await mkdtemp(join(tmpdir(), 'sidepath-paths-')))
  folder = join(top, 'folder')
  await mkdir(join(folder, 'sub'), { recursive: true })
  await writeFile(join(folder, 'in.txt'), 'inside')
  await writeFile(join(top, 'secret.txt'), 'secret')
})
afterEach(() => rm(top, { recursive: true, force: true }))

async function read(child: string, of = folder): Promise<string | undefined> {
  const file = await openFolder(of).open(child)
  if (file === undefined) return undefined
  const bytes = await file.read(0, file.size)
  await file.close()
  return new TextDecoder().decode(bytes)
}

async function refuses(child: string, words: string, of = folder): Promise<void> {
  const error: unknown = await read(child, of).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(PathError)
  expect((error as PathError).message).toContain(words)
}

describe('a folder', () => {
  it.each(['../secret.txt', 'sub/../../secret.txt', '..', '.', '', '/etc/passwd', 'a\0b'])(
    'does not open %j',
    (child) => refuses(child, 'outside the folder'),
  )

  it('opens neither an absolute path of its own nor one of another', async () => {
    await refuses(join(folder, 'in.txt'), 'outside the folder')
    await refuses(join(top, 'secret.txt'), 'outside the folder')
  })

  it('opens links within it, and a name that begins with two dots', async () => {
    await symlink('../in.txt', join(folder, 'sub', 'link.txt'))
    await symlink(join(folder, 'in.txt'), join(folder, 'absolute.txt'))
    await writeFile(join(folder, '..txt'), 'dots')
    expect(await Promise.all(['sub/link.txt', 'absolute.txt', '..txt'].map((child) => read(child)))).toEqual([
      'inside',
      'inside',
      'dots',
    ])
  })

  it('may be a link itself', async () => {
    await symlink(folder, join(top, 'given'))
    expect(await read('in.txt', join(top, 'given'))).toBe('inside')
  })

  it('refuses a link to a file, a folder, or a link that leave it, and says how to mend it', async () => {
    await symlink('../secret.txt', join(folder, 'file.txt'))
    await symlink(top, join(folder, 'up'))
    await symlink('file.txt', join(folder, 'chain.txt'))
    for (const child of ['file.txt', 'up/secret.txt', 'chain.txt']) await refuses(child, 'cp -L')
  })

  it('refuses a link to a folder beside it whose name begins as its own', async () => {
    await mkdir(`${folder}-other`)
    await writeFile(join(`${folder}-other`, 'x.txt'), 'x')
    await symlink('../folder-other/x.txt', join(folder, 'x.txt'))
    await refuses('x.txt', 'leaves the folder')
  })

  it('refuses a link to itself, and has no file where a link leads nowhere or to a folder', async () => {
    await symlink('loop.txt', join(folder, 'loop.txt'))
    await refuses('loop.txt', 'link to itself')
    await symlink('nothing.txt', join(folder, 'dangling.txt'))
    await symlink('sub', join(folder, 'sub-link'))
    for (const child of ['dangling.txt', 'sub-link', 'sub']) expect(await read(child)).toBeUndefined()
  })
})

/** `models--acme--x/snapshots/<commit>` whose files are links to `blobs`, as huggingface_hub leaves it. */
async function cacheOf(source: string, repository: string): Promise<string> {
  const blobs = join(top, 'hub', repository, 'blobs')
  const snapshot = join(top, 'hub', repository, 'snapshots', 'c'.repeat(40))
  await mkdir(blobs, { recursive: true })
  await cp(source, snapshot, { recursive: true })
  for (const entry of await readdir(snapshot, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const blob = join(blobs, sha256(await readFile(path)))
    await rename(path, blob)
    const ups = path
      .slice(snapshot.length + 1)
      .split('/')
      .map(() => '..')
    await symlink([...ups, '..', 'blobs', blob.slice(blobs.length + 1)].join('/'), path)
  }
  return snapshot
}

describe("a snapshot of Hugging Face's cache", () => {
  it('is compiled from where it lies, base and adapter, to the same artifact as from plain folders', async () => {
    const base = await cacheOf(join(TINY, 'base'), 'models--acme--base')
    const adapter = await cacheOf(join(TINY, 'a'), 'models--acme--a')
    const compile = async (from: string, with_: string, out: string) => {
      const args = [
        'compile',
        '--base',
        from,
        '--adapter',
        `a=${with_}`,
        '--no-verify',
        '--json',
        '--out',
        join(top, out),
      ]
      const { code, stdout, stderr } = await sidepath(args)
      expect(code, stderr).toBe(0)
      return JSON.parse(stdout).id as string
    }
    expect(await compile(base, adapter, 'cached')).toBe(await compile(join(TINY, 'base'), join(TINY, 'a'), 'plain'))
  })

  it('links into blobs of its own repository and nowhere else', async () => {
    const snapshot = await cacheOf(folder, 'models--acme--x')
    const other = await cacheOf(folder, 'models--acme--private')
    expect(await read('in.txt', snapshot)).toBe('inside')
    const blobs = join(snapshot, '..', '..', 'blobs')
    await writeFile(join(blobs, 'not-a-digest'), 'x')
    await mkdir(join(blobs, 'nested'))
    await writeFile(join(blobs, 'nested', 'd'.repeat(40)), 'x')
    await symlink('/etc/passwd', join(blobs, 'e'.repeat(40)))
    const hostile = {
      'other.txt': await realpath(join(other, 'in.txt')),
      'name.txt': join(blobs, 'not-a-digest'),
      'nested.txt': join(blobs, 'nested', 'd'.repeat(40)),
      'chain.txt': join(blobs, 'e'.repeat(40)),
      'refs.txt': join(top, 'secret.txt'),
    }
    for (const [name, target] of Object.entries(hostile)) {
      await symlink(target, join(snapshot, name))
      await refuses(name, 'leaves the folder', snapshot)
    }
  })

  it('below it, a folder has the same blobs', async () => {
    await writeFile(join(folder, 'sub', 'deep.txt'), 'deep')
    const snapshot = await cacheOf(folder, 'datasets--acme--x')
    expect(await read('sub/deep.txt', snapshot)).toBe('deep')
    expect(await read('deep.txt', join(snapshot, 'sub'))).toBe('deep')
  })

  it('is no excuse for a folder that only looks like one', async () => {
    const blobs = join(top, 'blobs')
    await mkdir(blobs)
    await writeFile(join(blobs, 'a'.repeat(64)), 'x')
    const snapshot = join(top, 'snapshots', 'c'.repeat(40))
    await mkdir(snapshot, { recursive: true })
    await symlink(`../../blobs/${'a'.repeat(64)}`, join(snapshot, 'x.txt'))
    await refuses('x.txt', 'leaves the folder', snapshot)
  })
})

describe('the command line', () => {
  /** A copy of a folder in which one file is a link to the same bytes outside it. */
  async function linked(source: string, file: string): Promise<string> {
    const copy = join(top, 'linked')
    await cp(source, copy, { recursive: true })
    await rename(join(copy, file), join(top, 'elsewhere'))
    await symlink('../elsewhere', join(copy, file))
    return copy
  }

  async function fails(...args: string[]): Promise<void> {
    const { code, stdout, stderr } = await sidepath(args)
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^sidepath: .*is a link that leaves the folder; .*cp -L\n$/)
  }

  const base = join(TINY, 'base')
  it('refuses a base whose weights are a link out of it', async () => {
    await fails('compile', '--base', await linked(base, 'model.safetensors'), '--out', join(top, 'out'))
  })

  it('refuses an adapter whose config is a link out of it, in compile and in combine', async () => {
    const adapter = await linked(join(TINY, 'a'), 'adapter_config.json')
    await fails('compile', '--base', base, '--adapter', `a=${adapter}`, '--out', join(top, 'out'))
    const other = `b=${join(TINY, 'b')}`
    await fails('combine', '--base', base, '--adapter', `a=${adapter}`, '--adapter', other, '--out', join(top, 'out'))
  })

  it('refuses to copy a link out of a base into a merged checkpoint', async () => {
    const copy = join(top, 'with-license')
    await cp(base, copy, { recursive: true })
    await symlink('../secret.txt', join(copy, 'LICENSE'))
    const args = ['merge', '--format', 'safetensors', '--base', copy, '--adapter', `a=${join(TINY, 'a')}`]
    await fails(...args, '--out', join(top, 'out'))
    expect(await readdir(top)).not.toContain('out')
  })

  it('refuses a shard of an index that is no plain name in the folder', async () => {
    const copy = join(top, 'sharded')
    await cp(base, copy, { recursive: true })
    await rename(join(copy, 'model.safetensors'), join(top, 'model.safetensors'))
    for (const shard of ['../model.safetensors', join(top, 'model.safetensors'), 'a\\model.safetensors']) {
      const index = JSON.stringify({ metadata: {}, weight_map: { 'lm_head.weight': shard } })
      await writeFile(join(copy, 'model.safetensors.index.json'), index)
      const { code, stderr } = await sidepath(['compile', '--base', copy, '--out', join(top, 'out')])
      expect(code, stderr).toBe(1)
      expect(stderr).toMatch(/weight_map/)
    }
  })
})
