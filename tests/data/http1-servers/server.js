// Answers every request with what Node's http understood of it, as JSON; bytes are in hex. Prints its port.
const http = require('http')
const hex = (text) => Buffer.from(text, 'latin1').toString('hex')

const answer = (request, response) => {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const fields = []
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      fields.push([request.rawHeaders[at].toLowerCase(), hex(request.rawHeaders[at + 1])])
    }
    const body = Buffer.concat(parts).toString('hex')
    const text = JSON.stringify({ method: request.method, target: hex(request.url), fields, body })
    response.writeHead(200, { 'content-length': Buffer.byteLength(text), connection: 'close' })
    response.end(request.method === 'HEAD' ? undefined : text)
  })
}
const server = http.createServer({ maxHeaderSize: 65536 }, answer)
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
// Ends with whoever started it.
process.stdin.resume().on('end', () => process.exit(0))
