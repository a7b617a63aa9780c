#!/usr/bin/env node
// Entry point. Plain JavaScript, so that an old Node gets a sentence instead of a syntax error.
const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `sidepath: this is Node ${process.versions.node}; sidepath needs 22.18 or newer. ` +
      'In the checkout, `npm start` and `npx sidepath` use the Node that `npm ci` installed.\n',
  )
  process.exit(1)
}
const { main } = await import('./main.ts')
await main(process.argv)
