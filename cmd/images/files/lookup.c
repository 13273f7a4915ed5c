/* Prints the addresses of names, one a line, as musl's resolver finds them: what `getent ahosts` is to glibc. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found, *a;
		int err = getaddrinfo(argv[i], NULL, &hints, &found);
		if (err != 0) {
			fprintf(stderr, "%s: %s\n", argv[i], gai_strerror(err));
			return 2;
		}
		for (a = found; a != NULL; a = a->ai_next) {
			char text[INET6_ADDRSTRLEN];
			const void *ip = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
								: (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
			puts(inet_ntop(a->ai_family, ip, text, sizeof text));
		}
		freeaddrinfo(found);
	}
	return 0;
}
